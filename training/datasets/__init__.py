"""From the official release of a data set to lists of labelled clips."""
