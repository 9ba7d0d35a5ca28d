"""What single types need beyond the rules: settings, inputs, or the class to take."""

CLASSES = {}  # type -> class
LIMITS = {}  # type -> arguments of the default configuration, which cannot be made without them
CONFIGS = {}  # type -> settings
INPUTS = {}  # type -> (generator, model) -> batch
