"""Nets on the Hub: read from a repository or a folder, saved with their card, published."""

import errno
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vggnet import checkpoint, weights
from vggnet.card import Stated, card
from vggnet.errors import InputError, RunError
from vggnet.files import check_writable, write_atomically, write_error
from vggnet.formats.foreign import TORCHVISION, Preprocessing
from vggnet.model import VGG

FILES = ("model.safetensors", "pytorch_model.bin")
"""What a repository's weights are called: vggnet's and timm's, and PyTorch's of before."""
CONFIG = "config.json"
"""Beside timm's weights it says what images they take. Beside ours it is there for the Hub."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def load(
    name: str | Path,
    *,
    file: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    **options: Any,
) -> VGG:
    """`VGG.from_pretrained`."""
    if not str(name).strip():
        raise _no_name(str(name))
    names = FILES if file is None else (file,)
    where: dict[str, Any] = {
        "revision": revision,
        "cache_dir": cache_dir,
        "token": token,
        "local_files_only": local_files_only,
    }
    place = Path(name)
    if place.is_file():
        found = place
    elif place.is_dir():
        files = [place / each for each in names if (place / each).is_file()]
        if not files:
            raise InputError(f"{place}: has no {' or '.join(names)}: name the file of weights")
        found = files[0]
    else:
        found = file_of(str(name), names, **where)
    wanted = {key for key in ("preprocessing", "class_names") if options.get(key) is None}
    if wanted and not _is_ours(found):
        if place.exists():
            config: Path | None = (place if place.is_dir() else place.parent) / CONFIG
        else:
            config = config_of(str(name), **where)
        if config is not None and config.is_file():
            options |= _settings(config, wanted)
    return weights.load(found, **options)


def _is_ours(path: Path) -> bool:
    """Whether a file of weights describes itself."""
    try:
        checkpoint.read_header(path)
    except InputError:
        return False
    return True


def _settings(path: Path, wanted: set[str]) -> dict[str, Any]:
    """What timm's config.json says of images and classes, as options of `weights.load`.

    It has the facts in `pretrained_cfg`, in older files beside `architecture`; the names of the
    classes in either place. `mean` and `std` are of R, G and B in 0–1.

    Args:
        path: of the file. Other software's of this name says nothing here.
        wanted: of preprocessing and class_names.

    Raises:
        InputError: for what is not JSON, or values that cannot be.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        flat = found if "architecture" in found else {}
        facts = found.get("pretrained_cfg") or flat
        options: dict[str, Any] = {}
        if "preprocessing" in wanted and ("mean" in facts or "std" in facts):
            mean, std = (
                tuple(float(value) for value in facts.get(key) or usual)
                for key, usual in (("mean", TORCHVISION.mean), ("std", TORCHVISION.std))
            )
            options["preprocessing"] = Preprocessing("RGB", 255.0, mean, std)
        labels = found.get("label_names") or facts.get("label_names") or facts.get("labels")
        if "class_names" in wanted and labels:
            options["class_names"] = _names(labels)
        return options
    except (
        *(OSError, ValueError, TypeError, AttributeError),
        *(LookupError, ArithmeticError, RecursionError),
    ) as error:
        raise InputError(
            f"{path}: is not as timm writes it ({type(error).__name__}: {error}), and says what "
            "images the weights beside it take: mend it, or give preprocessing=… and class_names=…"
        ) from None


def _names(labels: Any) -> tuple[str, ...]:
    """A list in the order of the scores, or an object by their numbers."""
    if isinstance(labels, dict):
        labels = [labels[str(number)] for number in range(len(labels))]
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        raise ValueError("label_names are not names")
    return tuple(labels)


def save(
    model: VGG, folder: str | Path, results: Sequence[Stated] = (), **about: str | None
) -> None:
    """`VGG.save_pretrained`; `about` are `card`'s dataset, license and repo."""
    shared = _shared(model, results, **about)
    folder = Path(folder)
    check_writable(folder / FILES[0])
    try:
        shared.save_pretrained(folder)
    except OSError as error:
        raise write_error(folder, error) from None


def push(
    model: VGG,
    repo: str,
    results: Sequence[Stated] = (),
    *,
    dataset: str | None = None,
    license: str | None = None,
    **options: Any,
) -> str:
    """`VGG.push_to_hub`; `options` are those of the Hub client's method of this name."""
    shared = _shared(model, results, dataset=dataset, license=license, repo=repo)
    try:
        return str(shared.push_to_hub(repo, **options))
    except Exception as error:
        raise hub_error(repo, error) from None


def _shared(model: VGG, results: Sequence[Stated], **about: str | None) -> Any:
    """The net as the Hub's client saves and publishes it."""
    client()
    from huggingface_hub import ModelHubMixin

    class Shared(ModelHubMixin, library_name="vggnet"):
        def __init__(self, model: VGG, text: str) -> None:
            self.model, self.text = model, text
            # Becomes config.json, by which the Hub counts downloads. Nothing of ours reads it:
            # the weight file describes itself.
            self._hub_mixin_config = asdict(model.config)

        def _save_pretrained(self, save_directory: Path) -> None:
            checkpoint.save(self.model, save_directory / FILES[0])
            # The client leaves a card that is there; its errors would be those of other weights.
            write_atomically(
                save_directory / "README.md",
                lambda path: path.write_text(self.text, encoding="utf-8"),
            )

    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    return Shared(model, card(model, results, **about))


def client() -> Any:
    """The Hub's client.

    Raises:
        InputError: where it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise InputError("the Hub needs huggingface_hub: pip install 'vggnet[hub]'") from None
    return huggingface_hub


def _errors() -> Any:
    """The client's own; it loads its modules late, so this one is no attribute before."""
    client()
    from huggingface_hub import errors

    return errors


def file_of(
    repo: str,
    names: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Path:
    """The first of these files that a repository on the Hub has, in the Hub client's cache.

    Args:
        repo: such as timm/vgg16.tv_in1k.
        names: of files in it.
        revision: a branch, a tag or a commit; the newest by default.
        cache_dir: instead of the client's own (HF_HOME, HF_HUB_CACHE).
        token: for private repositories; by default that of `hf auth login`.
        local_files_only: ask the cache alone.

    Raises:
        InputError: for a repository or file that is not there, or may not be read.
        RunError: when the Hub cannot be reached and the cache has no such file.
    """
    errors = _errors()
    missing: Exception | None = None
    for name in names:
        try:
            return Path(
                client().hf_hub_download(
                    repo,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    token=token,
                    # Where the Hub did not answer once, it is not asked for the next name.
                    local_files_only=local_files_only
                    or isinstance(missing, errors.LocalEntryNotFoundError),
                )
            )
        except errors.EntryNotFoundError as error:
            if not isinstance(missing, errors.LocalEntryNotFoundError):
                missing = error
        except Exception as error:
            raise hub_error(repo, error) from None
    if isinstance(missing, errors.LocalEntryNotFoundError):
        if local_files_only:
            raise InputError(
                f"{repo}: {' and '.join(names)} not in the Hub client's cache: leave out "
                "local_files_only"
            )
        raise RunError(
            f"{repo}: the Hub cannot be reached, and its client's cache has no {names[0]}: check "
            "the connection (HTTPS_PROXY, HF_ENDPOINT, HF_HUB_OFFLINE), then try again"
        )
    raise InputError(f"{repo}: has no {' or '.join(names)}: is it a repository of VGG weights?")


def config_of(repo: str, *, local_files_only: bool = False, **where: Any) -> Path | None:
    """The config.json of a repository; None where it has none.

    Args:
        repo, local_files_only, where: as for `file_of`.

    Raises:
        InputError, RunError: as `file_of`; also where nobody can say whether there is one.
    """
    hub, errors = client(), _errors()
    try:
        return Path(hub.hf_hub_download(repo, CONFIG, local_files_only=local_files_only, **where))
    except errors.LocalEntryNotFoundError:
        kept = {key: where.get(key) for key in ("cache_dir", "revision")}
        if hub.try_to_load_from_cache(repo, CONFIG, **kept) is hub._CACHED_NO_EXIST:
            return None
        text = (
            f"{repo}: {CONFIG}, which may say what images these weights take, is not in the Hub "
            "client's cache"
        )
        otherwise = "or give preprocessing=… and class_names=…"
        if local_files_only:
            raise InputError(f"{text}: leave out local_files_only, {otherwise}") from None
        raise RunError(
            f"{text}, and the Hub cannot be reached: check the connection (HTTPS_PROXY, "
            f"HF_ENDPOINT, HF_HUB_OFFLINE), {otherwise}"
        ) from None
    except errors.EntryNotFoundError:
        return None
    except Exception as error:
        raise hub_error(repo, error) from None


def _no_name(name: str) -> InputError:
    return InputError(f"{name!r}: neither a folder nor a name on the Hub, such as user/name")


def hub_error(repo: str, error: Exception) -> InputError | RunError:
    """What to raise for an error of the Hub's client, in one line."""
    errors = _errors()
    if isinstance(error, InputError | RunError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{repo}: its owner lets in by request: ask there, then hf auth login")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"{repo}: no such repository on the Hub, or a private one: check the name, or log in "
            "with hf auth login"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{repo}: has no such revision: give a branch, a tag or a commit of it")
    if isinstance(error, errors.HFValidationError):
        return _no_name(repo)
    if isinstance(error, OSError) and error.errno in _DISK:
        return write_error(Path(error.filename or "the Hub client's cache"), error)
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    said = getattr(error, "server_message", None) or str(error).strip() or type(error).__name__
    first = said.splitlines()[0]
    if status in (401, 403):
        return InputError(f"{repo}: the Hub refuses ({status}): log in with hf auth login")
    if status in (400, 409, 413, 422):
        return InputError(f"{repo}: the Hub refuses ({status}): {first}")
    why = f"the Hub says {status}" if status else f"{type(error).__name__}: {first}"
    return RunError(
        f"{repo}: the Hub could not be used ({why}): check the connection (HTTPS_PROXY, "
        "HF_ENDPOINT, HF_HUB_OFFLINE), then try again"
    )
