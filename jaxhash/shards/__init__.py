"""One index in many files, encoded by any number of processes, each file by any of them."""
