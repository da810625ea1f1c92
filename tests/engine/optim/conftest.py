"""One thread: the tests run beside others and their tensors are tiny."""

from tests.one_thread import one_thread as one_thread
