"""`python -m svfap_edge` is `svfap-edge`."""

from svfap_edge.cli.app import main

if __name__ == "__main__":
    main()
