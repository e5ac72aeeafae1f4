from byteloom.corpus import Corpus, machine_executables, machine_format


def test_this_machine_has_executables_of_its_own() -> None:
    folders = machine_executables()
    assert folders and all(folder.is_dir() for folder in folders)
    assert not any(one in other.parents for one in folders for other in folders)
    document = next(iter(Corpus(folders, formats=[machine_format()], archives=False)))
    assert "code" in {section.kind for section in document.info.sections}
