"""Eight processes that prepare the data at once, one of which is killed."""

import multiprocessing
import time

from cifar10.data import prepare as archive
from tests.processes import SERVER, start_server


def prepare(folder, edition) -> None:
    archive.prepare_dataset(folder, [], False, edition)


def test_a_killed_process_does_not_disturb_the_others_that_prepare_the_data(
    forms, tmp_path, chance, long, survived
):
    start_server()
    for round in range(20 if long else 2):
        folder = tmp_path / f"data {round}"
        folder.mkdir()
        forms.write("cifar-10-python.tar.gz", folder)
        processes: list[multiprocessing.Process] = [
            SERVER.Process(target=prepare, args=(folder, forms.edition)) for _ in range(8)
        ]
        for process in processes:
            process.start()
        time.sleep(chance.uniform(0, 0.3))
        processes[0].kill()
        for process in processes:
            process.join(60)
        ended = [process.exitcode for process in processes[1:]]
        whole = archive.read_prepared(folder / archive.PREPARED_FILE, forms.edition)
        good = ended == [0] * 7 and whole is not None and not list(folder.glob(".*.tmp"))
        survived("eight processes preparing, one killed: one good file", good)
        assert good, (ended, sorted(folder.iterdir()))
