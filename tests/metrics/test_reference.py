"""Features of real images that are kept: the same to the last bit, and those of these images alone."""

import pytest
import torch

from ebmzoo.data.array_cache import VARIABLE
from ebmzoo.errors import UserError
from ebmzoo.metrics import ClassifierFeatures, FeatureExtractor, InceptionV3, Pixels, extract, frechet_distance
from ebmzoo.metrics import reference as module
from ebmzoo.metrics.frechet import FeatureStatistics
from ebmzoo.metrics.reference import ReferenceFeatures
from support.keeping import empty_home


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    return empty_home(tmp_path_factory, monkeypatch)


class Projected(FeatureExtractor):
    """Some features with rounding errors, whose weights its fingerprint states; `seen` counts images."""

    name, reuse = "projected", True

    def __init__(self, seed=0):
        super().__init__()
        self.seed, self.seen = seed, 0
        self.matrix = torch.randn(64, 5, generator=torch.Generator().manual_seed(seed))

    @property
    def fingerprint(self):
        return f"{self.seed:012d}"

    def available(self):
        return None

    def forward(self, images):
        self.seen += len(images)
        return images.flatten(1) @ self.matrix, None


IMAGES = torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
OTHERS = torch.randn(30, 5, generator=torch.Generator().manual_seed(1))


def passed(extractor, images=IMAGES, **settings):
    """The number of images that pass the extractor for the features and their statistics."""
    found, before = ReferenceFeatures(extractor, images, **settings), extractor.seen
    assert found.features.shape == (len(images), 5)
    found.frechet_distance(OTHERS)
    return extractor.seen - before


def test_a_second_use_passes_no_image_and_gives_the_same_to_the_last_bit():
    expected, _ = extract(Projected(), IMAGES)
    extractor = Projected()
    for n in (40, 40):  # at the second turn those of another process, as it were
        found = ReferenceFeatures(extractor, IMAGES)
        assert torch.equal(found.features, expected)
        assert found.features.dtype == torch.float32
        statistics, own = found.statistics, FeatureStatistics.of(expected)
        assert statistics.n == own.n == 40
        assert torch.equal(statistics.mean, own.mean)
        assert torch.equal(statistics.covariance, own.covariance)
        assert found.frechet_distance(OTHERS) == frechet_distance(expected, OTHERS)
        assert extractor.seen == n
    assert passed(Projected()) == 0


def test_statistics_are_computed_once_too(monkeypatch):
    ReferenceFeatures(Projected(), IMAGES).frechet_distance(OTHERS)
    monkeypatch.setattr(FeatureStatistics, "of", None)
    assert ReferenceFeatures(Projected(), IMAGES).statistics.n == 40


OTHER = {
    "weights": lambda: passed(Projected(seed=1)),
    "fewer images": lambda: passed(Projected(), IMAGES[:39]),
    "another image": lambda: passed(Projected(), torch.cat([IMAGES[:39], 255 - IMAGES[39:]])),
    "another order": lambda: passed(Projected(), IMAGES.flip(0)),
    "the same values as floats": lambda: passed(Projected(), IMAGES.float() / 255),
    "another shape": lambda: passed(Projected(), IMAGES.view(10, 4, 8, 8)[:, :1]),
    "another batch": lambda: passed(Projected(), batch_size=7),
}


@pytest.mark.parametrize("case", OTHER)
def test_what_is_kept_belongs_to_extractor_images_and_batch(case):
    assert passed(Projected()) == 40
    assert OTHER[case]() > 0
    assert OTHER[case]() == 0
    assert passed(Projected()) == 0


@pytest.mark.parametrize("what", ["threads", "version", "code"])
def test_what_is_kept_belongs_to_the_machine_and_the_code(what, monkeypatch):
    passed(Projected())
    if what == "threads":
        threads = torch.get_num_threads()
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    elif what == "version":
        monkeypatch.setattr(module, "version", lambda package: "0.0")
    else:
        monkeypatch.setattr(module, "CODE", module.CODE[:-1])
    assert passed(Projected()) == 40


class Derived(Projected):
    """What an extractor of another kind inherits says nothing of what it adds."""


def test_only_extractors_whose_class_allows_it_are_kept(home):
    for extractor in (Derived(), Derived()):
        assert passed(extractor) == 40
    turned_off = Projected()
    turned_off.reuse = False
    assert passed(turned_off) == passed(turned_off) == 40
    assert not home.exists()
    assert all(vars(kind)["reuse"] for kind in (Pixels, ClassifierFeatures, InceptionV3))
    assert not FeatureExtractor.reuse


@pytest.mark.parametrize("how", ["off", "unwritable"])
def test_without_a_cache_features_are_computed(how, home, monkeypatch):
    if how == "off":
        monkeypatch.setenv(VARIABLE, "off")
    else:
        home.write_text("in the way")
    assert passed(Projected()) == passed(Projected()) == 40


@pytest.mark.parametrize("array", ["features", "mean", "scatter"])
def test_what_is_damaged_is_computed_anew(array, home):
    expected = ReferenceFeatures(Projected(), IMAGES).frechet_distance(OTHERS)
    (file,) = (home / "features").glob(f"*.{array}.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert ReferenceFeatures(Projected(), IMAGES).frechet_distance(OTHERS) == expected
    content[-1] ^= 1
    assert file.read_bytes() == content


def test_an_entry_of_another_form_is_not_used():
    found = ReferenceFeatures(Projected(), IMAGES)
    expected = found.features
    found._keep("features", {"features": torch.zeros(39, 5)})
    assert passed(Projected()) == 40
    found._keep("features", {"features": torch.zeros(40, 5).double()})
    assert passed(Projected()) == 40
    found._keep("statistics", {"mean": torch.zeros(4).double(), "scatter": torch.zeros(4, 4).double()})
    assert ReferenceFeatures(Projected(), IMAGES).frechet_distance(OTHERS) == frechet_distance(expected, OTHERS)


def test_features_that_are_not_finite_are_an_error_and_not_kept(home):
    extractor = Projected()
    extractor.matrix[0] = torch.inf
    for _ in range(2):
        with pytest.raises(UserError, match="NaN or infinity"):
            _ = ReferenceFeatures(extractor, IMAGES).statistics
    assert not [*home.rglob("*.mean.npy")]
