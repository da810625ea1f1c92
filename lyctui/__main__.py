"""`python -m lyctui`."""

from lyctui.cli import main

if __name__ == "__main__":
    main()
