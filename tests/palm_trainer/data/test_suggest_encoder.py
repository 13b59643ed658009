"""`palm-train init` chooses an encoder that can read the data, and a length that cuts nearly no row."""

import json

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.data.pieces import count_pieces
from palm_trainer.data.suggest_config import suggest
from palm_trainer.data.suggest_encoder import suggest_encoder
from palm_trainer.runs.job_from_config import job_from_config

# Verbs and objects of a sentence in several scripts. Each language has words that differ in a mark only.
WORDS = {
    "thai": (("ฉันอยาก", "ช่วย", "โปรด"), ("กินข้าวผัด", "จองตั๋ว", "เปิดไฟ", "ปิดเพลง")),
    "arabic": (("أريد أن ", "من فضلك ", "هل يمكنك "), ("حجز رحلة إلى القاهرة", "تشغيل الموسيقى", "إطفاء الضوء")),
    "russian": (
        ("пожалуйста ", "можешь ли ты ", "я хочу "),
        ("забронировать билет", "включить музыку", "выключи свет"),
    ),
    "greek": (("θέλω να ", "σε παρακαλώ ", "μπορείς να "), ("κλείσω εισιτήριο", "ανάψω το φως", "ακούσω μουσική")),
    "hebrew": (("אני רוצה ", "בבקשה ", "אתה יכול "), ("להזמין טיסה", "להדליק את האור", "לשמוע מוזיקה")),
    "hindi": (("मैं चाहता हूँ ", "कृपया ", "क्या आप "), ("टिकट बुक करना", "संगीत चलाना", "बत्ती बंद करना")),
    "korean": (("나는 ", "제발 ", "지금 "), ("비행기를 예약해 줘", "음악을 틀어 줘", "불을 꺼 줘")),
    "japanese": (("どうか", "いますぐ", "ちょっと"), ("でんきをつけて", "おんがくをかけて", "ひこうきをよやくして")),
    "georgian": (("მინდა ", "გთხოვ ", "შეგიძლია "), ("ბილეთის დაჯავშნა", "მუსიკის ჩართვა", "შუქის გამორთვა")),
    "english": (("please ", "could you ", "i want to "), ("book a flight", "play some music", "switch off the light")),
    "german": (
        ("bitte ", "könntest du ", "ich möchte "),
        ("einen Flug buchen", "Musik hören", "das Licht ausschalten"),
    ),
    "vietnamese": (("tôi muốn ", "làm ơn ", "bạn có thể "), ("đặt vé máy bay", "bật nhạc", "tắt đèn")),
}
KEEPS_CASE = {"arabic", "thai", "hindi", "korean", "japanese"}
UNSPACED = {"thai", "korean", "japanese"}
READABLE = {"english", "german", "vietnamese"}


def texts_in(language: str) -> list[str]:
    verbs, objects = WORDS[language]
    texts = []
    for number in range(24):
        texts.append(verbs[number % len(verbs)] + objects[number // len(verbs) % len(objects)] + f" {number}")
    return texts


def write(folder, texts):
    rows = []
    for number, text in enumerate(texts):
        rows.append(json.dumps({"text": text, "intent": "ab"[number % 2]}, ensure_ascii=False))
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    toml, remarks = suggest(folder / "rows.jsonl")
    (folder / "rows.toml").write_text(toml, encoding="utf-8")
    return load_config(folder / "rows.toml"), toml, remarks


@pytest.mark.parametrize("language", sorted(set(WORDS) - READABLE))
def test_suggest_encoder_reads_every_script(language, tmp_path):
    config, toml, remarks = write(tmp_path, texts_in(language))
    assert config.encoder.model == "scratch"
    assert (config.encoder.characters, config.encoder.lowercase) == (
        language in UNSPACED,
        language not in KEEPS_CASE,
    )
    small = ("encoder.layers=1", "encoder.hidden_size=16", "encoder.heads=2")
    trained = job_from_config(load_config(tmp_path / "rows.toml", small)).trained
    examples = list(map(Example, texts_in(language)))
    counts = count_pieces(examples, trained.tokenizer_json)
    assert (counts.unknown, counts.cut_rows(trained.max_length)) == (0, [])
    assert counts.unread_share < 0.1
    assert any(line.startswith("encoder from scratch") and "minilm-l6-en reads English" in line for line in remarks)
    section = toml.partition("[encoder]")[2].partition("[data")[0]
    assert '# model = "google-bert/bert-base-multilingual-cased"' in section


@pytest.mark.parametrize("language", sorted(READABLE))
def test_suggest_encoder_of_latin_letters_is_pretrained(language, tmp_path):
    config, toml, remarks = write(tmp_path, texts_in(language))
    assert config.encoder.model == "minilm-l6-en"
    assert "#" not in toml
    assert any(line.startswith("encoder minilm-l6-en: 0.0% of the pieces unknown") for line in remarks)


def test_suggest_encoder_marks_of_scripts_without_capitals_stay(tmp_path):
    """Rice and white differ in a mark that lower-casing would remove."""
    write(tmp_path, texts_in("thai"))
    small = ("encoder.layers=1", "encoder.hidden_size=16", "encoder.heads=2")
    trained = job_from_config(load_config(tmp_path / "rows.toml", small)).trained
    rice = count_pieces([Example("ข้าว")], trained.tokenizer_json)
    assert rice.lengths == (len("ข้าว") + 2,)


@pytest.mark.parametrize(
    ("foreign", "model"), [(0.02, "minilm-l6-en"), (0.2, "scratch"), (0.5, "scratch"), (0.9, "scratch")]
)
@pytest.mark.parametrize("language", ["thai", "russian"])
def test_suggest_encoder_of_mixed_rows(language, foreign, model, tmp_path):
    """Rows of two scripts. With few foreign rows the remark says how many, and what would read them."""
    count = round(200 * foreign)
    texts = (texts_in(language) * 10)[:count] + (texts_in("english") * 10)[: 200 - count]
    config, _, remarks = write(tmp_path, texts)
    assert config.encoder.model == model
    if model != "scratch":
        assert any("2% of the rows are in a script that minilm-l6-en cannot read" in line for line in remarks)


def test_suggest_encoder_of_mixed_texts_is_from_scratch(tmp_path):
    texts = []
    for thai, english in zip(texts_in("thai"), texts_in("english"), strict=True):
        texts.append(f"{english[:12]} {thai}")
    assert write(tmp_path, texts)[0].encoder.model == "scratch"


def test_suggest_encoder_few_chinese_rows_are_told(tmp_path):
    texts = texts_in("english") * 8 + ["我要去北京", "播放一首歌", "关灯", "订一张机票"]
    config, _, remarks = write(tmp_path, texts)
    assert config.encoder.model == "minilm-l6-en"
    assert any("2% of the rows are in a script" in line for line in remarks)


def test_suggest_encoder_chinese_names_a_chinese_model(tmp_path):
    config, toml, _ = write(tmp_path, ["我要去北京", "播放一首歌", "关灯吧", "订一张机票"] * 6)
    assert (config.encoder.model, config.encoder.characters) == ("scratch", True)
    assert '# model = "hfl/chinese-roberta-wwm-ext"' in toml


CODES = "part no. QX-{0:08}/{1:06}-ZK{2:03} rev.3.14"


@pytest.mark.parametrize(
    ("row", "length"),
    [
        (CODES, 32),
        (f"{CODES} {CODES}", 64),
        ("https://example.com/{0:08}/{1:06}?q={2:03}&page={0:08}", 64),
        ("{0:08}" * 10, 64),
        ("sing " * 20 + "{0}", 32),
        ("sing " * 40 + "{0}", 64),
        ("sing " * 300 + "{0}", 512),
        ("sing " * 600 + "{0}", 512),
    ],
)
def test_suggest_max_length_counts_pieces(row, length, tmp_path):
    texts = []
    for number in range(100):
        texts.append(row.format(number * 314159 % 10**8, number * 2718 % 10**6, number))
    config, _, remarks = write(tmp_path, texts)
    assert (config.encoder.model, config.encoder.max_length) == ("minilm-l6-en", length)
    cut = job_from_config(config).loop.sources["rows"].dataset.cut
    assert len(cut) == (100 if "sing " * 600 in row else 0)
    assert any(line.endswith(f"{len(cut)} of 100 rows are cut") for line in remarks)


def test_suggest_max_length_common_russian_words_are_not_cut(tmp_path):
    words = ["пожалуйста", "забронируйте", "гостиницу", "недалеко", "от", "центрального", "вокзала"]
    texts = []
    for number in range(100):
        texts.append(" ".join(words[number % 7 :] + words[: number % 7]))
    config, _, _ = write(tmp_path, texts)
    assert config.encoder.model == "scratch"
    assert job_from_config(config).loop.sources["rows"].dataset.cut == []


def test_suggest_max_length_covers_every_split_and_pair():
    short, long = Example("wake me"), Example("wake me", pair="at six " * 40)
    splits = {"train": [short] * 100, "dev": [short] * 98 + [long] * 2}
    assert suggest_encoder(splits, passages=False).table["max_length"] == 128
    splits["dev"] = [short] * 99 + [long]
    assert suggest_encoder(splits, passages=False).table["max_length"] == 32
    splits["train"] = [long]
    assert suggest_encoder(splits, passages=False).table["max_length"] == 128


def test_suggest_max_length_from_scratch_goes_beyond_512():
    text = "".join(chr(0x4E00 + number % 500) for number in range(700))
    found = suggest_encoder({"train": [Example(text)] * 4}, passages=False)
    assert found.table == {"model": "scratch", "max_length": 768, "characters": True}


def test_suggest_encoder_without_package_is_from_scratch(monkeypatch):
    monkeypatch.setattr("palm_trainer.tokenization.encoder_files.importlib.util.find_spec", lambda name: None)
    found = suggest_encoder({"train": [Example("wake me at six")] * 4}, passages=False)
    assert found.table["model"] == "scratch"
    assert any("which is not installed" in line for line in found.remarks)
