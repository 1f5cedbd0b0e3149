# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""TransFusion from Python: train, test, predict, look, on photographs that need no download.

    python examples/quick_start.py                 # minutes on two CPU cores
    python examples/quick_start.py --epochs 1      # to see that it runs

The network is the small one of configs/demo.yaml. For real data the five lines of the README do:
``TransFusion()`` is the paper's network, and any data module of anomalib takes the place of ``DemoSurface``.
"""

import argparse

from anomalib.engine import Engine

from anomalib_transfusion import DemoSurface, TransFusion, visualize_reverse_process


def main(epochs: int) -> None:
    """Train on good images of a brick wall, and look for defects in others.

    Args:
        epochs: Number of epochs.
    """
    model = TransFusion(
        base_channels=8,
        num_blocks=1,
        attention_levels=(-1,),
        num_inference_steps=5,
        texture_source="photographs",
        learning_rate=1e-3,
        full_rate_share=0.5,
        rate_decay=0.3,
        pre_processor=TransFusion.configure_pre_processor((128, 128)),
    )
    data = DemoSurface(category="brick")
    engine = Engine(max_epochs=epochs, gradient_clip_val=1.0)
    engine.train(model=model, datamodule=data)

    # An image, a folder, a dataset or a data module; each prediction is a batch.
    crack = sorted((data.root / data.category / "test" / "crack").glob("*.png"))[0]
    (prediction,) = engine.predict(model=model, data_path=crack)
    verdict = "defective" if prediction.pred_label.item() else "good"
    print(f"{crack.name} is {verdict}, with a score of {prediction.pred_score.item():.2f} (the threshold is 0.5).")

    # Every image the reverse process went through, as a picture and as an animation.
    visualize_reverse_process(model, crack, output=["film_strip.png", "fading.gif"])
    print("How it made the defect transparent: film_strip.png and fading.gif.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=25)
    main(parser.parse_args().epochs)
