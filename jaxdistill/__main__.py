"""`python -m jaxdistill PROGRAM`; see `cli`."""

from jaxdistill import cli

if __name__ == "__main__":
    cli.main()
