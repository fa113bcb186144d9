"""Test runs started in the background ignore Ctrl-C, and what they start inherits it; tests of Ctrl-C must not."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
