"""The commands of ``mmrest``, one file each; mmrest_cli.py is their entry point."""
