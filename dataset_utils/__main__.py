"""`python -m dataset_utils`: see `commands`."""

from dataset_utils.commands import main

if __name__ == '__main__':
    main(prog_name='python -m dataset_utils')
