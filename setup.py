from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith('#')]


def version():
    scope = {}
    exec((ROOT / 'mmrest' / 'version.py').read_text(), scope)
    return scope['__version__']


setup(
    name='mmrest',
    version=version(),
    description='ResT and RMT backbones for mmdet and mmseg',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='computer vision, object detection, semantic segmentation, backbone, transformer',
    packages=find_packages(include=['mmrest', 'mmrest.*']),
    python_requires='>=3.8',
    install_requires=requirements('runtime'),
    # What mmrest was tried with: python -m mmrest.check_env reads it from here.
    extras_require={
        'tests': requirements('tests'),
        'mim': requirements('torch') + requirements('mminstall'),
    },
)
