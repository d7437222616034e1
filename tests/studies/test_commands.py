import subprocess

from studies.commands import Resources, process_arguments, shell_line


def test_a_command_for_several_nodes_can_be_pasted_into_a_shell():
    line = shell_line(['train.py', '--desc=two words', '--seed=$HOME'], Resources(2, 8))
    shell = f'NODE_RANK=1; MASTER_ADDR=node-a; MASTER_PORT=20071; printf "%s\\n" {line}'
    words = subprocess.run(['sh', '-c', shell], capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[0] == 'torchrun'
    assert {'--nnodes=2', '--nproc_per_node=8', '--node_rank=1'} <= set(words)
    assert {'--master_addr=node-a', '--master_port=20071'} <= set(words)
    assert words[-3:] == ['train.py', '--desc=two words', '--seed=$HOME']


def test_processes_on_several_nodes_are_given_the_rendezvous_variables():
    environ = {'NODE_RANK': '1', 'MASTER_ADDR': 'node-a', 'MASTER_PORT': '20071'}
    words = process_arguments(['train.py', '--seed=$NODE_RANK'], Resources(2, 8), environ)
    assert {'--node_rank=1', '--master_addr=node-a', '--master_port=20071', '--seed=$NODE_RANK'} <= set(words)


def test_a_single_device_needs_no_torchrun():
    assert shell_line(['train.py', '--seed=1'], Resources(1, 1)) == 'python train.py --seed=1'
    assert shell_line(['-m', 'dataset_utils', 'size'], Resources(2, 8)) == 'python -m dataset_utils size'
