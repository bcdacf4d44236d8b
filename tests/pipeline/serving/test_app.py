"""The API of pictures: a real server, asked as programs and strangers ask."""

import base64
import io
import json
import re
import shutil
import socket
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

from pipeline.checkpoint.load_model import load_from
from pipeline.cli.generate import GenerateConfig, generate
from pipeline.serving.config import ServeConfig
from pipeline.serving.drawing_queue import BATCH, DrawingQueue, QueueFullError
from pipeline.serving.models import ServedModel, load_models
from ratgan.picture import Picture, read_signature
from tests.pipeline.serving.server import CARD, STEP, make_run, served

CAPTIONS = ("a red bird", "two cats", "a small blue square at the top left", "一只红色的小鸟")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run") / "birds")


@pytest.fixture(scope="module")
def address(run):
    with served(ServeConfig(model=(str(run),), port=0)) as address:
        yield address


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def imagine(address: str, **question) -> requests.Response:
    return requests.get(f"{address}/imagine", params=question, timeout=120)


def drawn_by_command(run: Path, output: Path, caption: str, seed: int, **options) -> np.ndarray:
    config = GenerateConfig(
        captions=(caption,), model=str(run), output=str(output), seed=seed, **options
    )
    return pixels(Path(generate(config)[0]).read_bytes())


def test_many_clients_get_each_the_picture_of_the_command(run, address, tmp_path):
    questions = [(caption, seed) for caption in CAPTIONS for seed in range(3)] * 4

    with ThreadPoolExecutor(len(questions)) as pool:
        answers = list(pool.map(lambda q: imagine(address, prompt=q[0], seed=q[1]), questions))

    expected = {
        q: drawn_by_command(run, tmp_path / str(n), *q) for n, q in enumerate(set(questions))
    }
    for question, answer in zip(questions, answers, strict=True):
        assert answer.status_code == 200
        assert np.array_equal(pixels(answer.content), expected[question]), question


@pytest.mark.slow
@pytest.mark.rest
def test_500_requests_of_50_clients_are_all_answered_and_none_is_mixed_up(run, address):
    wanted = [
        Picture(f"a red bird number {number}", seed) for seed in range(50) for number in range(10)
    ]

    with ThreadPoolExecutor(50) as pool:
        answers = list(
            pool.map(lambda each: imagine(address, prompt=each.caption, seed=each.seed), wanted)
        )

    assert [answer.status_code for answer in answers] == [200] * 500
    assert [read_signature(answer.content)[0] for answer in answers] == wanted
    expected = load_from(str(run)).draw_pictures(wanted).permute(0, 2, 3, 1).numpy()
    drawn = np.stack([pixels(answer.content) for answer in answers])
    assert np.array_equal(drawn, expected)
    assert len({each.tobytes() for each in expected}) > 400, "another's picture would show"


def test_a_picture_says_what_it_is_made_from_and_is_drawn_again(run, address, tmp_path):
    question = {
        "prompt": "a red bird",
        "seed": 5,
        "truncation": 0.5,
        "other_prompt": "two cats",
        "prompt_share": 0.25,
        "other_seed": 9,
        "noise_share": 0.5,
    }
    first = imagine(address, **question).content
    (tmp_path / "picture.png").write_bytes(first)

    picture, digest = read_signature(first)
    again = generate(
        GenerateConfig(like=f"{tmp_path}/picture.png", model=str(run), output=f"{tmp_path}/out")
    )

    expected = Picture("a red bird", 5, 0, 0.5, "two cats", 0.25, 9, 0, 0.5)
    assert (picture, digest) == (
        expected,
        load_models(ServeConfig(model=(str(run),)))["birds"].model.digest,
    )
    assert np.array_equal(pixels(Path(again[0]).read_bytes()), pixels(first))
    assert Image.open(io.BytesIO(first)).text["Description"] == "a red bird"


def test_the_same_question_is_answered_from_the_browsers_cache(address):
    first = imagine(address, prompt="a red bird", seed=1)
    tag = {"If-None-Match": first.headers["etag"]}

    again = requests.get(f"{address}/imagine?prompt=a+red+bird&seed=1", headers=tag, timeout=60)
    other = requests.get(f"{address}/imagine?prompt=a+red+bird&seed=2", headers=tag, timeout=60)

    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200


def test_openai_clients_get_pictures_with_their_seeds(address):
    body = {"prompt": "a red bird", "n": 3, "seed": 11, "size": "32x32", "user": "me"}

    answer = requests.post(f"{address}/v1/images/generations", json=body, timeout=60).json()

    assert [each["seed"] for each in answer["data"]] == [11, 12, 13]
    for each in answer["data"]:
        content = base64.b64decode(each["b64_json"])
        assert content == imagine(address, prompt="a red bird", seed=each["seed"]).content
    random = [
        requests.post(
            f"{address}/v1/images/generations", json={"prompt": "a red bird"}, timeout=60
        ).json()["data"][0]["seed"]
        for _ in range(2)
    ]
    assert random[0] != random[1]


def test_attention_is_that_of_the_runs_discriminator(run, address, tmp_path):
    plain = imagine(address, prompt="a red bird", seed=2)
    overlaid = imagine(address, prompt="a red bird", seed=2, attention=True)

    assert not np.array_equal(pixels(plain.content), pixels(overlaid.content))
    with served(ServeConfig(model=(f"{run}/model", f"bare={run}/model"), port=0)) as other:
        beside = imagine(other, prompt="a red bird", seed=2, attention=True)
    assert beside.content == overlaid.content, "the checkpoint of the model's step is beside it"


def test_models_say_what_they_are(address):
    (model,) = requests.get(f"{address}/v1/models", timeout=60).json()["data"]

    assert model["id"] == "birds"
    assert (model["image_size"], model["step"], model["attention"]) == (32, STEP, True)
    assert model["examples"] == ["a red bird", "<b>two</b> cats"]
    assert model["card"] == CARD


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/imagine?prompt=", 400, "no letter, digit or symbol"),
        ("/imagine?seed=1", 400, "prompt: Field required"),
        ("/imagine?prompt=a&seed=-1", 400, "seed: Input should be greater"),
        ("/imagine?prompt=a&seed=99999999999999999999", 400, "seed: "),
        ("/imagine?prompt=a&truncation=nan", 400, "truncation: "),
        ("/imagine?prompt=a&sede=1", 400, "sede: Extra inputs"),
        ("/imagine?prompt=a&prompt_share=0.5", 400, "to other_prompt, which is missing"),
        ("/imagine?prompt=a&noise_share=0.5", 400, "to other_seed, which is missing"),
        ("/imagine?prompt=a&model=none", 404, "there is no such model. Models: birds."),
        ("/nothing", 404, "Not Found"),
        ("/v1/images/generations", 405, "Method Not Allowed"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
def test_a_wrong_question_gets_one_shape_of_error(address, path, status, message):
    answer = requests.get(f"{address}{path}", timeout=60)

    assert answer.status_code == status
    assert message in answer.json()["error"]["message"]
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a", "size": "64x64"}, 400, "size"),
        ({"prompt": "a", "n": 17}, 400, "n"),
        ({"prompt": "a", "response_format": "url"}, 400, "response_format"),
        ({"prompt": "a", "truncaton": 1}, 400, "truncaton"),
        ({"prompt": 7}, 400, "prompt"),
        ({"prompt": "a" * 100_000}, 400, "prompt"),
        ({"prompt": "a" * 300_000}, 413, None),
    ],
    ids=["size", "n", "format", "unknown", "type", "long", "large"],
)
def test_a_wrong_body_gets_the_same_shape(address, body, status, param):
    answer = requests.post(f"{address}/v1/images/generations", json=body, timeout=60)

    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_a_body_that_is_no_json_is_said_to_be_none(address):
    place = f"{address}/v1/images/generations"
    json = {"Content-Type": "application/json"}

    broken = requests.post(place, data='{"prompt": "a" "n": 2}', headers=json, timeout=60)
    unsaid = requests.post(place, data='{"prompt": "a"}', timeout=60)

    errors = [answer.json()["error"] for answer in (broken, unsaid)]
    assert [answer.status_code for answer in (broken, unsaid)] == [400, 400]
    assert [error["param"] for error in errors] == [None, None]
    assert errors[0]["message"].startswith("the body is not JSON: ")
    assert "Content-Type: application/json" in errors[1]["message"]


def test_a_body_of_unstated_length_is_bounded_too(address):
    answer = requests.post(
        f"{address}/v1/images/generations", data=iter([b"x" * 2**16] * 8), timeout=60
    )

    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "too_large"


def test_pages_of_others_and_other_names_are_refused(address):
    for headers, status in (
        ({"Host": "evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),  # another port of this machine
        ({"Sec-Fetch-Site": "none"}, 200),  # typed by a person
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ):
        answer = requests.get(f"{address}/v1/models", headers=headers, timeout=60)
        assert answer.status_code == status, headers
        assert "access-control-allow-origin" not in answer.headers
        assert "default-src 'none'" in answer.headers["content-security-policy"]


def test_with_a_token_nothing_is_told_without_it(run, tmp_path, capfd):
    token = "canary" + "0" * 40
    file = tmp_path / "token"
    file.touch(mode=0o600)
    file.write_text(token)
    bearer = {"Authorization": f"Bearer {token}"}
    with served(ServeConfig(model=(str(run),), port=0, token_file=str(file))) as address:
        for path in ("/v1/models", "/imagine?prompt=a", "/metrics"):
            wrong = {"Authorization": f"Bearer {token[:-1]}1"}
            assert requests.get(f"{address}{path}", timeout=60).status_code == 401
            assert requests.get(f"{address}{path}", headers=wrong, timeout=60).status_code == 401
            assert requests.get(f"{address}{path}", headers=bearer, timeout=60).status_code == 200
        assert requests.get(f"{address}/", timeout=60).status_code == 200, "asks for the token"
    file.chmod(0o644)

    with (
        pytest.raises(ValueError, match="can be read by others"),
        served(ServeConfig(model=(str(run),), port=0, token_file=str(file))),
    ):
        pass
    assert "canary" not in "".join(capfd.readouterr())


def test_other_machines_need_a_token():
    with pytest.raises(ValueError, match="needs --token-file"):
        ServeConfig(host="0.0.0.0")


def test_a_full_queue_is_said_and_passes(run):
    served_model = load_models(ServeConfig(model=(str(run),)))["birds"]
    queue = DrawingQueue(limit=3)
    try:
        with pytest.raises(QueueFullError):
            queue.put(served_model, [Picture("a bird", seed) for seed in range(4)])
        results = queue.put(served_model, [Picture("a bird", seed) for seed in range(3)])
        assert [result.result(120).image.shape for result in results] == [(3, 32, 32)] * 3
    finally:
        queue.close()


def test_no_request_waits_for_all_pictures_of_a_large_one(run):
    first = load_models(ServeConfig(model=(str(run),)))["birds"]
    second = replace(first, name="second")
    queue = DrawingQueue(limit=1000)
    order: list[str] = []

    def put(name: str, served: ServedModel, count: int) -> list[Future]:
        results = queue.put(served, [Picture("a bird", seed) for seed in range(count)])
        for result in results:
            result.add_done_callback(lambda _: order.append(name))
        return results

    try:
        with queue._changed:  # nothing is drawn before all of them wait
            asked = [put("large", first, 200), put("small", first, 2), put("other", second, 1)]
        wait([result for results in asked for result in results], 120)
    finally:
        queue.close()

    assert [order.count(name) for name in ("large", "small", "other")] == [200, 2, 1]
    # With the first batch, and with the one that follows it.
    assert order[: 3 * BATCH].count("small") == 2
    assert order[: 3 * BATCH].count("other") == 1


def test_more_than_the_queue_holds_is_503_with_a_time_to_wait(run):
    with served(ServeConfig(model=(str(run),), port=0, max_queue=16)) as address:
        body = {"prompt": "a bird", "n": 16}

        def ask(_: int) -> requests.Response:
            return requests.post(f"{address}/v1/images/generations", json=body, timeout=120)

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(8)))

        full = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} <= {200, 503}
        assert full
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in full)
        assert imagine(address, prompt="a bird").status_code == 200


def test_a_request_that_takes_too_long_is_504_and_not_drawn(run):
    with served(ServeConfig(model=(str(run),), port=0, timeout_s=1e-6)) as address:
        answer = imagine(address, prompt="a bird")

    assert answer.status_code == 504


def test_who_has_left_gets_nothing_drawn(run):
    config = ServeConfig(model=(str(run),), port=0, max_images=256)
    with served(config) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"prompt": "a bird", "n": 256}).encode()
        head = (
            f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        for _ in range(2):  # the second waits behind the first
            with socket.create_connection((host, int(port))) as client:
                client.sendall(head.encode() + body)

        assert imagine(address, prompt="a bird").status_code == 200
        figures = requests.get(f"{address}/metrics", timeout=60).text
        drawn = re.search(r'ratgan_images_total{model="birds"} (\d+)', figures)
    assert drawn is not None
    assert int(drawn[1]) < 512


def test_the_record_of_a_stranger_shows_nothing_of_this_machine(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    secret = tmp_path / "secret"
    secret.write_text("captions such as\n\n* secret\n")
    (copy / "model" / "README.md").unlink()
    (copy / "model" / "README.md").symlink_to(secret)
    record = json.loads((copy / "model" / "model.json").read_text())
    (copy / "model" / "model.json").write_text(json.dumps(record | {"origin": None}))

    served_model = load_models(ServeConfig(model=(str(copy),)))["copy"]

    assert (served_model.card, served_model.examples, served_model.step) == ("", (), None)
    assert json.dumps(served_model.describe())


def test_two_models_need_two_names(run):
    with pytest.raises(ValueError, match="two models are called birds"):
        load_models(ServeConfig(model=(str(run), str(run))))


def test_documentation_and_figures_come_from_here(address):
    page = requests.get(f"{address}/docs", timeout=60).text
    schema = requests.get(f"{address}/openapi.json", timeout=60).json()
    imagine(address, prompt="a red bird")
    figures = requests.get(f"{address}/metrics", timeout=60).text

    assert "http://" not in page.replace(address, "")
    assert "https://" not in page
    assert set(schema["paths"]) >= {"/imagine", "/v1/images/generations", "/v1/models", "/healthz"}
    statuses = [set(r["responses"]) for m in schema["paths"].values() for r in m.values()]
    assert statuses == [{"200", "default"}] * len(statuses), "422 is never answered"
    assert all(path in page for path in schema["paths"])
    assert 'ratgan_images_total{model="birds"}' in figures
    assert json.dumps(schema)
