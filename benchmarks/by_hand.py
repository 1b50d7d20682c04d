"""The main job as people do it by hand: train, export, serve, predict, copy; no checks, no records.

    python benchmarks/by_hand.py DIRECTORY [IMAGE]

Without an image it starts the project's embedded server in the container's place.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import requests
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

EPOCHS = 30


def wait_for(url: str) -> None:
    for _ in range(3000):
        try:
            if requests.get(url, timeout=5).json()["model_version_status"][0]["state"] == "AVAILABLE":
                return
        except (requests.RequestException, KeyError):
            pass
        time.sleep(0.02)
    raise SystemExit("the server did not come up")


def main(directory: Path, image: str) -> None:
    x, y = load_digits(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x.astype("float32"), y, test_size=0.2, random_state=0)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Dense(128, "relu"),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, validation_split=0.25, epochs=EPOCHS, verbose=0)
    export = directory / "export" / "digits"
    model.export(export / "1", verbose=False)
    if image:
        container = subprocess.check_output(
            [
                "docker",
                "run",
                "-d",
                "-p",
                "127.0.0.1:18501:8501",
                "-e",
                "MODEL_NAME=digits",
                "-v",
                f"{export}:/models/digits:ro",
                image,
            ],
            text=True,
        ).strip()
        stop = ["docker", "rm", "-f", container]
    else:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tasks.model_server",
                "--port=0",
                "--rest_api_port=18501",
                "--model_name=digits",
                f"--model_base_path={export}",
            ],
            stderr=subprocess.DEVNULL,
        )
    url = "http://127.0.0.1:18501/v1/models/digits"
    try:
        wait_for(url)
        answer = requests.post(f"{url}:predict", json={"instances": x_test.tolist()}, timeout=30).json()
    finally:
        if image:
            subprocess.run(stop, check=True, stdout=subprocess.DEVNULL)
        else:
            server.terminate()
            server.wait()
    accuracy = float(np.mean(np.argmax(answer["predictions"], axis=1) == y_test))
    shutil.copytree(export / "1", directory / "live" / "digits" / "1")
    print(f"accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "")
