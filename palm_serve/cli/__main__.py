"""`python -m palm_serve.cli`."""

from palm_serve.cli.main import main

if __name__ == "__main__":
    main()
