"""Does an image hold the model that it says it holds? Run inside each image while it is built.

`python verify_model.py FOLDER [DIGEST]` compares every file in the folder with the export's manifest.json,
the digest in it with its list of files, and that digest with DIGEST, which becomes the image's label.
Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path


def fault(folder: Path, digest: str) -> str | None:
    """Return what is wrong with the part of an export that lies in `folder`, None if nothing is."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files, named = manifest["files"], manifest["digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{folder}/manifest.json cannot be read ({error!r}): run `modelswarm setup`, then build again"
    if named != f"sha256:{hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()}":
        return "the manifest's digest is not that of its files: run `modelswarm setup`, then build again"
    if digest and digest != named:
        return f"the build was told {digest}, the export is {named}: build with `modelswarm images build`"
    present = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    if not present:
        return f"{folder} holds nothing but its manifest: COPY the model that the server loads"
    for path in present:
        name = path.relative_to(folder).as_posix()
        if name not in files:
            return f"{name} is not part of the export"
        if files[name]["sha256"] != hashlib.sha256(path.read_bytes()).hexdigest():
            return f"{name} is not the file that the manifest names: run `modelswarm setup`, then build again"
    return None


def main() -> int:
    """Check the folder that the arguments name; the exit status is 1 for a fault."""
    folder, digest = Path(sys.argv[1]), "".join(sys.argv[2:])
    sentence = fault(folder, digest)
    print(f"error: {sentence}" if sentence else f"{folder} agrees with its manifest")
    return 1 if sentence else 0


if __name__ == "__main__":
    sys.exit(main())
