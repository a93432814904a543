"""Shop: what every stage works with."""

from __future__ import annotations

from concurrent.futures import Future

from msgspec import Struct

from harness.artifacts import Store
from harness.boot.initramfs import Toolbox
from harness.build.tree import Tree
from harness.container.image import Image
from harness.container.job import Engine


class Shop(Struct, frozen=True):
    """The engine, its images, the kernel source and the store.

    Attributes:
        machine: comes true when the machine image is made, beside the builds.
    """

    engine: Engine
    toolchain: Image
    machine: Future[Image]
    tree: Tree
    store: Store

    @property
    def toolbox(self) -> Toolbox:
        """What machines are made with; waits for the machine image.

        Raises:
            InfraError: it could not be made.
        """
        return Toolbox(self.engine, self.machine.result().tag)
