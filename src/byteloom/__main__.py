"""`python -m byteloom` is `byteloom`; torchrun starts it so: `torchrun --nproc-per-node 8 -m byteloom fit ...`."""

from byteloom.cli.main import main

if __name__ == "__main__":
    main()
