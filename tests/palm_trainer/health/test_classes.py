from palm_trainer.health.classes import find_class_warnings


def warnings(rows):
    return [(warning.label, warning.warning, warning.figure) for warning in find_class_warnings(rows)]


def numbered(count, intent, words=""):
    return [(f"{words} {intent} {number}", intent) for number in range(count)]


def test_even_classes_have_no_warning(intents):
    train = numbered(20, "a") + numbered(20, "b")
    assert warnings(intents(train=train, test=train[::4])) == []


def test_rare_and_frequent_classes_are_told(intents):
    rows = intents(train=numbered(50, "a") + numbered(19, "b") + numbered(30, "c"))
    assert warnings(rows) == [
        ("b", "fewer than 20 in train", "19"),
        ("1 of 3", "more than 50% off the mean of 33: a 50", "50 : 19"),
    ]


def test_share_that_differs_between_splits_is_told(intents):
    rows = intents(train=numbered(20, "a") + numbered(20, "b"), test=numbered(9, "a") + numbered(11, "b"))
    assert warnings(rows) == []
    rows = intents(train=numbered(20, "a") + numbered(20, "b"), test=numbered(8, "a") + numbered(12, "b"))
    assert warnings(rows) == [
        ("a", "share differs between train and test", "50.0% / 40.0%"),
        ("b", "share differs between train and test", "50.0% / 60.0%"),
    ]


def test_length_that_differs_between_splits_is_told(intents):
    train = numbered(20, "a")
    rows = intents(train=train, test=numbered(5, "a", "one two three"))
    assert warnings(rows) == []
    rows = intents(train=train, test=numbered(5, "a", "one two three four"))
    assert warnings(rows) == [("a", "mean length in words differs between train and test", "2.0 / 6.0")]
