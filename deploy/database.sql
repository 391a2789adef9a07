-- Made when the cluster is: the log has a database of its own beside that of the templates.
CREATE DATABASE log;
