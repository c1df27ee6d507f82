"""The commands of ``fs-fedmllm``, one module each (``data`` more, for its verbs): ``add`` puts a command into
the grammar, a function runs it.

Heavy imports happen inside the functions, so that ``--help`` and configuration errors answer at once.
"""
