from mmrest_cli import main

if __name__ == '__main__':
    main('export')
