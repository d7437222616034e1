"""Run mem_ratio.py, append a line to FILE for every denoised image, and die by SIGKILL after KILL_AFTER images.

Usage: counting_mem_ratio.py FILE KILL_AFTER OPTION...   (with KILL_AFTER=0, it runs to the end)
"""

import os
import signal
import sys

import mem_ratio
from evaluation import generators, one_pass

file, kill_after = sys.argv.pop(1), int(sys.argv.pop(1))
one_pass.SECONDS_BETWEEN_SAVES = 0
load_network = generators.load_network
denoised = 0


def load_counting_network(*arguments):
    net = load_network(*arguments)
    forward = net.forward

    def counting_forward(x, *rest):
        global denoised
        denoised += len(x)
        with open(file, 'a') as lines:
            lines.write('1\n' * len(x))
        if 0 < kill_after < denoised:
            os.kill(os.getpid(), signal.SIGKILL)
        return forward(x, *rest)

    net.forward = counting_forward  # type: ignore[assignment, method-assign]
    return net


if __name__ == '__main__':
    generators.load_network = load_counting_network
    mem_ratio.main()
