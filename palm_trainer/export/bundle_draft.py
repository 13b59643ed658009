"""Bundle during its export: all that its manifest is built from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from palm_serve.bundle.loader import MANIFEST, Bundle, load_bundle
from palm_serve.bundle.manifest import EncoderInfo, Gate, GraphVariant, Manifest, TaskInfo, TensorInfo
from palm_trainer.export.bundle_writer import BundleWriter
from palm_trainer.export.compact import WEIGHTS, compact, share_weights
from palm_trainer.export.quantize import WEIGHT_BITS
from palm_trainer.export.to_onnx import OPSET
from palm_trainer.export.variants import FUSED, GraphDraft, Weights


@dataclass(frozen=True)
class DraftVariant:
    """A graph in the draft: its file, its weights and its size in bytes."""

    file: str
    weights: Weights
    size: int


@dataclass
class BundleDraft:
    """Contents of a bundle that is being exported. Its manifest is built from them, in one place.

    `gates` are known once the graphs have been compared with the trained model.
    """

    writer: BundleWriter
    name: str
    created: str
    encoder: EncoderInfo
    max_length: int
    input_names: tuple[str, ...]
    tasks: dict[str, TaskInfo]
    variants: dict[str, DraftVariant] = field(default_factory=dict)
    gates: dict[str, tuple[Gate, ...]] = field(default_factory=dict)
    is_compact: bool = False
    """The weights of the plain graph are stored as integers."""

    @property
    def variant_weights(self) -> dict[str, Weights]:
        """Return the weights of each variant."""
        weights_by_variant = {}
        for name, variant in self.variants.items():
            weights_by_variant[name] = variant.weights
        return weights_by_variant

    def add_plain(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write the plain graph. The first file is the graph, a second one holds large weights.

        Weights that are multiples of integers are stored as such.
        """
        if len(files) == 1:
            file, content = next(iter(files.items()))
            compacted = compact(content)
            self.is_compact = compacted is not None
            files = {file: compacted or content}
        for file, content in files.items():
            self.writer.write(file, content)
        size = sum(len(content) for content in files.values())
        self.variants[name] = DraftVariant(next(iter(files)), "fp32", size)

    def add_variant(self, graph: GraphDraft) -> None:
        """Write a further graph."""
        content = graph.content
        if self.is_compact and graph.weights == "fp32":
            content = compact(content) or content
        self.writer.write(graph.file, content)
        self.variants[graph.name] = DraftVariant(graph.file, graph.weights, len(content))

    def read_variant(self, name: str) -> bytes:
        """Read the graph of a variant."""
        return (self.writer.directory / self.variants[name].file).read_bytes()

    def replace_variant(self, name: str, content: bytes) -> None:
        """Replace the graph of a variant.

        The old file is removed first, because an engine may have mapped it into memory.
        """
        variant = self.variants[name]
        self.writer.remove(variant.file)
        self.writer.write(variant.file, content)
        self.variants[name] = DraftVariant(variant.file, variant.weights, len(content))

    def remove_variant(self, name: str) -> None:
        """Remove a variant and its file."""
        self.writer.remove(self.variants.pop(name).file)

    def share_weights(self) -> str:
        """Store the weights of all graphs once, in a file beside them. Return a note on it.

        It is for graphs with integers as weights, which are most of the bytes of such a bundle and the same in each.
        """
        contents = {name: self.read_variant(name) for name in self.variants}
        shared = share_weights(contents)
        for name, variant in list(self.variants.items()):
            self.writer.remove(variant.file)
            file = PurePosixPath(variant.file).name  # beside the weights: a graph may name no file of another folder
            self.writer.write(file, shared.graphs[name])
            self.variants[name] = DraftVariant(file, variant.weights, shared.sizes[name])
        self.writer.write(WEIGHTS, shared.weights)
        return (
            f"{WEIGHTS}: weights of all variants as integers, without a loss, {len(shared.weights) / 1e6:.1f} MB "
            f"instead of {sum(map(len, contents.values())) / 1e6:.1f} MB"
        )

    def describe_variants(self) -> dict[str, GraphVariant]:
        """Return the manifest entries of the variants."""
        variants = {}
        for name, variant in self.variants.items():
            kind: Literal["plain", "fused"] = "fused" if name == FUSED else "plain"
            variants[name] = GraphVariant(
                file=variant.file,
                opset=OPSET,
                graph=kind,
                weights=variant.weights,
                weight_bits=WEIGHT_BITS if variant.weights == "int8" else None,
                size=variant.size,
                gates=self.gates.get(name, ()),
            )
        return variants

    def build_manifest(self) -> Manifest:
        """Build the manifest, with the checksums of the files as they are now and the version of the contents."""
        manifest = Manifest(
            name=self.name,
            created=self.created,
            encoder=self.encoder,
            max_length=self.max_length,
            inputs=tuple(TensorInfo(name=name) for name in self.input_names),
            tasks=self.tasks,
            variants=self.describe_variants(),
            files=self.writer.checksums(),
        )
        return manifest.model_copy(update={"version": manifest.digest()})

    def read_manifest(self) -> bytes:
        """Return the bytes of the manifest that `read_back` wrote."""
        return (self.writer.directory / MANIFEST).read_bytes()

    def read_back(self) -> Bundle:
        """Write the manifest and load the bundle as a server does.

        Raises:
            BundleError: if the loader rejects the bundle.
        """
        manifest = self.build_manifest()
        self.writer.write(MANIFEST, (manifest.model_dump_json(indent=2) + "\n").encode())
        return load_bundle(self.writer.directory)
