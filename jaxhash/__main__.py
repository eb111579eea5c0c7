"""`python -m jaxhash` is the console command `jaxhash`."""

from jaxhash.cli import main

main()
