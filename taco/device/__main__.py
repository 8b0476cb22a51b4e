"""`python -m taco.device`: the agent's command line."""

import sys

from taco.device.agent import main

sys.exit(main())
