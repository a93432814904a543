"""Depot: where machines leave kernels and results for each other: a URL of fsspec's.

``/a/directory``, ``s3://bucket/prefix`` or what else it knows. A kernel is one archive,
which appears whole or not at all; what is taken out of it has the hashes of its manifest.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.util
import io
import tarfile
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from harness.artifacts import Artifacts, Store, load
from harness.cells.kept import Kept, dump, parse
from harness.errors import InfraError, UserError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class Depot(Struct, frozen=True):
    """The file system of a URL, and the place in it."""

    files: AbstractFileSystem
    root: str
    url: str

    def has(self, key: str) -> bool:
        """Tell whether the kernel ``key`` is there.

        Raises:
            InfraError: the depot does not answer.
        """
        with self._speaking():
            return bool(self.files.exists(self._kernel(key)))

    def put(self, artifacts: Artifacts) -> None:
        """Leave a kernel, unless it is there.

        Raises:
            InfraError: the depot does not take it.
        """
        key = artifacts.manifest.key
        if self.has(key):
            return
        # as a stream: it has a few hundred megabytes
        with (
            self._publishing(self._kernel(key)) as file,
            gzip.open(file, "wb", compresslevel=1) as packed,
            tarfile.open(fileobj=packed, mode="w|") as archive,
        ):
            archive.add(artifacts.directory, arcname=".")

    def take(self, key: str, store: Store) -> Artifacts | None:
        """Return the kernel ``key`` from ``store``, put there if the depot has it.

        Raises:
            InfraError: the depot does not answer, or what it has is damaged.
        """
        if found := store.find(key):
            return found
        if not self.has(key):
            return None
        with self._speaking(), store.adding(key) as scratch:
            with (
                self.files.open(self._kernel(key), "rb") as file,
                tarfile.open(fileobj=file, mode="r|gz") as archive,
            ):
                archive.extractall(scratch, filter="data")
            self._require_whole(load(scratch), key)
        return store.find(key)

    def _require_whole(self, artifacts: Artifacts, key: str) -> None:
        manifest = artifacts.manifest
        wrong = [] if manifest.key == key else ["manifest.json"]
        for name, expected in manifest.sha256.items():
            with (artifacts.directory / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    wrong.append(name)
        if wrong:
            raise InfraError(
                f"{self.url} has a damaged {wrong[0]} of the kernel {key}",
                hint=f"delete {self._kernel(key)} there",
            )

    def keep(self, kept: Kept) -> None:
        """Leave a result, in place of what was there.

        Raises:
            InfraError: the depot does not take it.
        """
        with self._publishing(self._result(kept.key)) as file:
            file.write(dump(kept))

    def find(self, key: str) -> Kept | None:
        """Return the result ``key``, if it is there and can be read.

        Raises:
            InfraError: the depot does not answer.
        """
        with self._speaking():
            try:
                return parse(self.files.cat_file(self._result(key)))
            except FileNotFoundError:
                return None

    def _kernel(self, key: str) -> str:
        return f"{self.root}/kernels/{key}.tar.gz"

    def _result(self, key: str) -> str:
        return f"{self.root}/cells/{key}.json"

    @contextlib.contextmanager
    def _publishing(self, path: str) -> Iterator[io.BufferedIOBase]:
        """Yield a file that is there, under ``path``, when the block has ended well."""
        scratch = f"{path}.{uuid.uuid4().hex}"
        with self._speaking():
            self.files.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                with self.files.open(scratch, "wb") as file:
                    yield file
                self.files.mv(scratch, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self.files.rm(scratch)
                raise

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        # each of fsspec's file systems has errors of its own
        try:
            yield
        except InfraError:
            raise
        except Exception as exc:
            raise InfraError(
                f"the depot {self.url} failed: {type(exc).__name__}: {exc}",
                hint="every worker needs to read and write it",
            ) from exc


def open_depot(url: str) -> Depot:
    """Return the depot that ``url`` names.

    Raises:
        UserError: there is no such file system, or fsspec is not installed.
    """
    if importlib.util.find_spec("fsspec") is None:
        raise UserError(
            f"{url} needs fsspec, which is not installed",
            hint="pip install 'orc-harness[dask]'",
        )
    if not hasattr(tarfile, "data_filter"):
        raise UserError(
            "this Python takes what an archive says about paths",
            hint="use 3.11.4 or later",
        )
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as exc:
        raise UserError(
            f"{url} is no place for artifacts: {exc}",
            hint="a directory that all machines see, or s3://bucket/prefix",
        ) from exc
    return Depot(files, root.rstrip("/"), url)
