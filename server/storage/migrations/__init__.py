"""Steps from one database schema to the next, run by `intaglio-server database upgrade`."""
