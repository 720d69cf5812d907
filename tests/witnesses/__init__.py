"""The definitions a second time, without any code of the scripts, to compare the scripts with."""
