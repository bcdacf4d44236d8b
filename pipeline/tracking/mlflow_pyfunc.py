"""The model that MLflow loads and serves: a column of captions in, an array of images out."""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel, PythonModelContext
from numpy.typing import NDArray

import ratgan


class ServedModel(PythonModel):  # type: ignore[misc]
    """Draws one image for each caption."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the saved model that was logged beside this code.

        A text encoder that does not come along is named by who loads the model: `encoder_path`
        of its `model_config`, or of MLFLOW_PYFUNC_INFERENCE_CONFIG where it is served.
        """
        encoder_path = (context.model_config or {}).get("encoder_path") or None
        self.model = ratgan.load(context.artifacts["model"], encoder_path=encoder_path)

    def predict(
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> NDArray[np.uint8]:
        """Draw images, [N, H, W, 3], for the `caption` column of N rows.

        Args:
            context: Where the saved model is.
            model_input: Has that column.
            params: `seed` of the noise; the same captions and seed give the same images.
        """
        seed = int((params or {}).get("seed", 0))
        images = self.model.draw(list(model_input["caption"]), seed=seed)
        return images.permute(0, 2, 3, 1).numpy()


mlflow.models.set_model(ServedModel())
