"""`python -m svfap_edge` is `svfap-edge`."""

from .cli import main

if __name__ == "__main__":
    main()
