# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoints a model loads, and what it says of the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from anomalib_transfusion.training.compatibility import check_compatible, check_weights

# anomalib lists direct subclasses of its module as models.
if TYPE_CHECKING:
    from anomalib.models.components import AnomalibModule as Module
else:
    Module = object

__all__ = ["LoadsCheckpoints"]


class LoadsCheckpoints(Module):  # type: ignore[misc]
    """Mix-in for a model that refuses checkpoints of other models and of other parameters."""

    trained_for: ClassVar[tuple[str, ...]]
    """Names of the parameters that must be the same in training and in use, because the weights depend on them."""

    weights_prefix: ClassVar[str] = "model."
    """Prefix of names of weights that only checkpoints of this model have."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Load a model from a checkpoint; parameters that are not passed are read from it.

        Args:
            checkpoint_path: The checkpoint.
            args: Passed to anomalib's :meth:`AnomalibModule.load_from_checkpoint`.
            kwargs: Passed to the same method; they may contain parameters of the model.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged or holds code, which is not run, or belongs to another model.
        """
        try:
            return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)
        except Exception:
            # If the file itself is the problem, this raises an error that names it.
            if isinstance(checkpoint_path, str | Path):
                # Imported here: it needs anomalib's engine, partially imported while anomalib loads its plugins.
                from anomalib_transfusion.training.checkpoints import WholeCheckpointIO

                loaded = WholeCheckpointIO().load_checkpoint(checkpoint_path, "cpu", kwargs.get("weights_only"))
                check_weights(loaded, cls.__name__, cls.weights_prefix)
            raise

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another model or of other parameters.

        Raises:
            ValueError: If the checkpoint belongs to another model or to other parameters.
        """
        check_weights(checkpoint, type(self).__name__, self.weights_prefix)
        check_compatible(checkpoint, self.hparams, type(self), self.trained_for)
        super().on_load_checkpoint(checkpoint)
