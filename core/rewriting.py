"""The documents of an archive rewritten without certain environment variables.

A document is named by its digest in what refers to it, so a change goes all the way up: from the
image's configuration to its OCI manifest, an index above that, `index.json` and `manifest.json`.

Only what is understood comes out. Documents that nothing refers to are left out: Docker 25 writes
the configuration once more in its form from before 1.10, as a blob that nothing names. So are
attestations and other things beside the image that an index may list; BuildKit's provenance holds
build arguments. A file that is neither a document nor a layer makes the archive a corrupt one.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence

from tintype.core.contents import Contents, blob_path
from tintype.core.documents import as_object, as_objects, parsed_whole, serialised
from tintype.core.errors import CorruptArchive
from tintype.core.naming import IMAGE_NAME, INDEX, MANIFEST, REF_NAME
from tintype.core.scrub import Scrubber
from tintype.core.tar import Member, normalised, padding

_LEGACY, _VERSION, _LAYOUT = "json", "VERSION", "oci-layout"
_VERSION_DIGEST = hashlib.sha256(b"1.0").hexdigest()
_ENTRY_FIELDS = frozenset({"Config", "RepoTags", "Layers", "Parent"})
_MANIFEST_FIELDS = frozenset({"schemaVersion", "mediaType", "artifactType", "config", "layers"})
_INDEX_FIELDS = frozenset({"schemaVersion", "mediaType", "artifactType", "manifests"})
_DESCRIPTOR_FIELDS = frozenset({"mediaType", "artifactType", "digest", "size", "platform"})
_NAMES = frozenset({IMAGE_NAME, REF_NAME})
_REFERENCE_TYPE, _ATTESTATION = "vnd.docker.reference.type", "attestation-manifest"


class Rewriting:
    """What comes out in place of the documents that an archive's `Contents` withheld."""

    def __init__(self, contents: Contents, scrubber: Scrubber) -> None:
        """Read the documents; raises CorruptArchive for one that cannot be read for certain."""
        self._contents = contents
        self._scrubber = scrubber
        self._documents = {
            name: parsed_whole(contents.files[name].document or b"", name)
            for name, member in contents.withheld.items()
            if member.link is None
        }
        self._out: dict[str, tuple[Member, bytes]] = {}
        self._blobs: dict[str, dict[str, object] | None] = {}  # old name -> new digest and size
        self._configs: set[str] = set()  # names of the configurations that manifests lead to
        self._layers: set[str] = set()

    @property
    def config_digest(self) -> str:
        """Digest that the image's configuration has now."""
        return str(self._config(self._contents.image.config_path)["digest"])

    def followed(self, naming: Sequence[tuple[Member, object]]) -> list[tuple[Member, object]]:
        """Return the documents that name the image, leading to what comes out of `members`.

        Raises CorruptArchive for what is not understood, Refused for what cannot be scrubbed.
        """
        try:
            self._scrubber.learn(self._documents.values())
            followed = [(member, self._naming(member.name, each)) for member, each in naming]
            self._rewrite_rest()
        except RecursionError as exc:
            raise CorruptArchive("a document is nested too deeply to be scrubbed") from exc
        self._check_layers()
        return followed

    def members(self) -> Iterator[bytes]:
        """Yield the rewritten documents, and the links that are not to documents."""
        for name, (member, text) in self._out.items():
            yield member.header_as(name, len(text))
            yield text
            yield bytes(padding(len(text)))
        for member in self._contents.withheld.values():
            if member.link is not None and self._document_at(member.name) is None:
                yield member.header

    def _naming(self, name: str, document: object) -> object:
        if name == MANIFEST:
            return [self._entry(entry) for entry in as_objects(document, MANIFEST)]
        if name != INDEX:
            return document
        index = self._index(as_object(document, INDEX))
        config = self._contents.find(self._contents.image.config_path)
        described = as_object(document, INDEX)["manifests"]
        if described and (config is None or config[1].sha256 not in self._configs):
            raise CorruptArchive(f"{INDEX} leads to no image that can be scrubbed")
        return index

    def _entry(self, entry: dict[str, object]) -> dict[str, object]:
        """Return the image's entry in `manifest.json` with the new name of its configuration."""
        path = normalised(self._contents.image.config_path)
        old, new = self._contents.image.config_digest, self._config(path)["digest"]
        config = path.replace(_hex(old), _hex(new))
        return {**self._remarks(entry, _ENTRY_FIELDS), "Config": config}

    def _config(self, path: str) -> dict[str, object]:
        """Rewrite an image configuration, named by its digest; return new digest and size."""
        name, document = self._document(path)
        text = self._written(name, self._scrubber.configuration(as_object(document, name)))
        digest = hashlib.sha256(text).hexdigest()
        old = self._contents.files[name].sha256
        self._out[normalised(path).replace(old, digest)] = self._contents.withheld[name], text
        return {"digest": f"sha256:{digest}", "size": len(text)}

    def _descriptor(self, descriptor: dict[str, object]) -> dict[str, object] | None:
        """Follow an index's descriptor; None: what it leads to is no image, and is left out."""
        kept = self._described(descriptor)
        annotations = as_object(descriptor.get("annotations") or {}, "annotations")
        if annotations.get(_REFERENCE_TYPE) == _ATTESTATION:
            return None
        path = blob_path(descriptor)
        if self._contents.find(path) is None:  # of another platform
            return kept
        if path not in self._blobs:
            self._blobs[path] = self._blob(path)
        followed = self._blobs[path]
        return followed and {**kept, **followed}

    def _blob(self, path: str) -> dict[str, object] | None:
        found = self._document_at(path)
        if found is None:
            return None
        name, document = found
        blob = as_object(document, name)
        rewritten = self._index(blob) if "manifests" in blob else self._manifest(blob, name)
        if rewritten is None:
            return None
        text = self._written(name, rewritten)
        digest = hashlib.sha256(text).hexdigest()
        self._out[f"blobs/sha256/{digest}"] = self._contents.withheld[name], text
        return {"digest": f"sha256:{digest}", "size": len(text)}

    def _index(self, index: dict[str, object]) -> dict[str, object]:
        descriptors = as_objects(index.get("manifests") or [], INDEX)
        followed = [each for each in map(self._descriptor, descriptors) if each is not None]
        return {**self._remarks(index, _INDEX_FIELDS), "manifests": followed}

    def _manifest(self, manifest: dict[str, object], name: str) -> dict[str, object] | None:
        """Return an image's manifest following its configuration; None for any other manifest."""
        config = as_object(manifest.get("config"), f"{name}: config")
        layers = as_objects(manifest.get("layers") or [], f"{name}: layers")
        found = [self._contents.find(blob_path(layer)) for layer in layers]
        names = {each[0] for each in found if each is not None}
        configuration = self._document_at(blob_path(config))
        if configuration is None or names & self._documents.keys():
            return None
        if "rootfs" not in as_object(configuration[1], configuration[0]):
            return None
        self._layers |= names
        self._configs.add(self._contents.files[configuration[0]].sha256)
        # What it is the `subject` of is named by a digest that changes: a signature is void.
        rest = {key: value for key, value in manifest.items() if key != "subject"}
        return {
            **self._remarks(rest, _MANIFEST_FIELDS),
            "config": {**self._described(config), **self._config(blob_path(config))},
            "layers": [self._described(layer) for layer in layers],
        }

    def _described(self, descriptor: dict[str, object]) -> dict[str, object]:
        """Return a descriptor without the content that it may repeat, in base64."""
        kept = self._remarks(descriptor, _DESCRIPTOR_FIELDS | {"annotations"})
        kept.pop("data", None)
        if "annotations" in kept:
            kept["annotations"] = self._remarks(
                as_object(kept["annotations"] or {}, "annotations"), _NAMES
            )
        return kept

    def _rewrite_rest(self) -> None:
        """Rewrite what goes with the image without being referred to."""
        for name, member in self._contents.withheld.items():
            found = self._document_at(name)
            if found is None:
                continue
            if name == _LAYOUT:
                self._out[name] = (
                    member,
                    self._written(found[0], self._scrubber.remarks(as_object(found[1], name))),
                )
            elif posixpath.basename(name) == _LEGACY:
                legacy = self._scrubber.configuration(as_object(found[1], name))
                self._out[name] = member, self._written(found[0], legacy)

    def _check_layers(self) -> None:
        """Raise CorruptArchive unless all that passed is a layer, or known to hold nothing."""
        for path in self._contents.image.layer_paths:
            found = self._contents.find(path)
            if found is None or found[0] in self._documents:
                raise CorruptArchive(f"layer {path!r} is a document")
            self._layers.add(found[0])
        for name, file in self._contents.files.items():
            version = posixpath.basename(name) == _VERSION and file.sha256 == _VERSION_DIGEST
            if name not in self._layers and name not in self._documents and not version:
                raise CorruptArchive(f"{name!r} is neither a layer nor a document to be scrubbed")

    def _document(self, path: str) -> tuple[str, object]:
        found = self._document_at(path)
        if found is None:
            raise CorruptArchive(f"{path!r} is not a document to be scrubbed")
        return found

    def _document_at(self, path: str) -> tuple[str, object] | None:
        """Return name and content of the document at `path`, through links; None: there is none."""
        found = self._contents.find(path)
        if found is None or found[0] not in self._documents:
            return None
        return found[0], self._documents[found[0]]

    def _written(self, name: str, document: object) -> bytes:
        """Return the rewritten document as text; as it stood when nothing had to be changed."""
        if document == self._documents[name]:
            return self._contents.files[name].document or b""
        return serialised(document)

    def _remarks(self, document: Mapping[str, object], kept: frozenset[str]) -> dict[str, object]:
        """Scrub all fields but the `kept` ones."""
        rest = {key: value for key, value in document.items() if key not in kept}
        return {key: document[key] for key in document if key in kept} | self._scrubber.remarks(
            rest
        )


def _hex(digest: object) -> str:
    return str(digest).removeprefix("sha256:")
