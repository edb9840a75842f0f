"""The commands of ``mmrest``; mmrest_cli.py is their entry point."""
