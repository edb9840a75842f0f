import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
LIBRARIES = ('det', 'seg', 'cls')


def requirements(name):
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()
    return [line for line in lines if line.strip() and not line.startswith('#')]


class BuildWithConfigs(build_py):
    """Build with configs and tools under .mim, where OpenMMLab looks for them."""

    def run(self):
        package = ROOT / 'mmrest' if self.editable_mode else Path(self.build_lib) / 'mmrest'
        mim = package / '.mim'
        # Wheels would contain modules of earlier builds.
        shutil.rmtree(mim if self.editable_mode else package, ignore_errors=True)
        super().run()
        mim.mkdir(parents=True)
        for name in ('configs', 'tools', 'model-index.yml'):
            if self.editable_mode:
                (mim / name).symlink_to(ROOT / name)
            elif (ROOT / name).is_dir():
                shutil.copytree(
                    ROOT / name,
                    mim / name,
                    # model_zoo.py needs the repository.
                    ignore=shutil.ignore_patterns('__pycache__', 'model_zoo.py'),
                )
            else:
                shutil.copy(ROOT / name, mim / name)


setup(
    name='mmrest',
    version=runpy.run_path(str(ROOT / 'mmrest' / 'version.py'))['__version__'],
    description='ResT and RMT backbones for mmdet and mmseg',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    keywords='computer vision, object detection, semantic segmentation, backbone, transformer',
    cmdclass={'build_py': BuildWithConfigs},
    py_modules=['mmrest_cli'],
    entry_points={'console_scripts': ['mmrest = mmrest_cli:main']},
    packages=find_packages(include=['mmrest', 'mmrest.*']),
    package_data={'mmrest.reporting': ['templates/*.html']},
    python_requires='>=3.8',
    install_requires=requirements('runtime'),
    # Each completes an empty environment; check_env compares these versions with installed ones.
    extras_require={
        **{name: requirements('core') + requirements(name) for name in LIBRARIES},
        'all': sum(map(requirements, LIBRARIES), requirements('core')),
        'optional': requirements('optional'),
        'tests': requirements('tests') + requirements('optional'),
        'mim': requirements('mminstall'),
    },
)
