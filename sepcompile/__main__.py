"""``python -m sepcompile``: the command line, where the script is not on the path."""

from sepcompile.cli import main

if __name__ == "__main__":
    main()
