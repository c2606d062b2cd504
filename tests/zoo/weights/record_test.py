def test_a_name_is_of_an_architecture_and_a_tag(make_record):
    record = make_record(name="resnet50.keras_imagenet", hash="0123456789")
    assert (record.architecture, record.tag) == ("resnet50", "keras_imagenet")
    assert record.cache_name == "resnet50.keras_imagenet-01234567.h5"


def test_a_size_that_nobody_knows_is_bounded_by_the_parameters(make_record):
    assert make_record(bytes=5).max_bytes == 5
    assert make_record(bytes=None, parameters=1000).max_bytes == 4000 + 16 * 2**20
