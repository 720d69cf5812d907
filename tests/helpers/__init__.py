"""What tests, fakes and tools share: scripts, flat files, markets, lists, the running server."""

import os

# How long searches (generated examples, fuzzing) take: 10 is ten times as long as 1.
EFFORT = int(os.environ.get("TEST_EFFORT", "1"))
