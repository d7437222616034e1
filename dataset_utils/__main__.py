"""`python -m dataset_utils`: see `command_line`."""

from dataset_utils.command_line import main

if __name__ == '__main__':
    main(prog_name='python -m dataset_utils')
