"""``fs-fedmllm`` under an audit hook: python watched_site.py ROOT OWN LOG WORDS...

Every path below ROOT that this process opens or lists is written to LOG; one outside OWN raises, so a site that looked
at another's data could not go on, and what it looked at stands in LOG whatever becomes of the exception. The exit code
is 9 where FederatedScope was imported.
"""

from __future__ import annotations

import os
import sys

#: Audit events of the standard library that name a path first (docs.python.org/3/library/audit_events.html).
_EVENTS = frozenset({
    "open", "os.listdir", "os.scandir", "os.chdir", "os.link", "os.rename", "os.remove", "os.symlink", "glob.glob",
    "pathlib.Path.glob", "shutil.copyfile", "shutil.move", "shutil.copytree",
})  # fmt: skip


def watch(root: str, own: str, log: str) -> None:
    """Record and refuse, from now until the process ends."""
    root, own = os.path.realpath(root), os.path.realpath(own)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def below(path: str, folder: str) -> bool:
        return path == folder or path.startswith(folder + os.sep)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in _EVENTS or not arguments or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if below(path, root):
            os.write(out, f"{path}\n".encode())
            if not below(path, own):
                raise PermissionError(f"{event}: {path} is another site's")

    sys.addaudithook(hook)


if __name__ == "__main__":
    watch(*sys.argv[1:4])
    from fs_fedmllm.cli import main

    code = main(sys.argv[4:])
    sys.exit(9 if "federatedscope" in sys.modules else code)
