"""Bundle during its export: all that its manifest is built from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from palm_serve.bundle.loader import MANIFEST, Bundle, load_bundle
from palm_serve.bundle.manifest import EncoderInfo, Gate, GraphVariant, Manifest, TaskInfo, TensorInfo
from palm_trainer.export.bundle_writer import BundleWriter
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

    @property
    def variant_weights(self) -> dict[str, Weights]:
        """Return the weights of each variant."""
        weights_by_variant = {}
        for name, variant in self.variants.items():
            weights_by_variant[name] = variant.weights
        return weights_by_variant

    def add_plain(self, name: str, files: Mapping[str, bytes]) -> None:
        """Write the plain graph. The first file is the graph, a second one holds large weights."""
        for file, content in files.items():
            self.writer.write(file, content)
        size = sum(len(content) for content in files.values())
        self.variants[name] = DraftVariant(next(iter(files)), "fp32", size)

    def add_variant(self, graph: GraphDraft) -> None:
        """Write a further graph."""
        self.writer.write(graph.file, graph.content)
        self.variants[graph.name] = DraftVariant(graph.file, graph.weights, len(graph.content))

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
