"""Eight processes that prepare the data at once, one of which is killed."""

import multiprocessing
import time

from cifar10.data.prepare import PREPARED_FILE, prepare_dataset, read_prepared
from tests.processes import SERVER, start_server


def prepare(folder, checksums) -> None:
    prepare_dataset(folder, [], False, checksums)


def test_a_killed_process_does_not_disturb_the_others_that_prepare_the_data(
    forms, tmp_path, chance, long, survived
):
    start_server()
    for round in range(20 if long else 2):
        folder = tmp_path / f"data {round}"
        folder.mkdir()
        forms.write("cifar-10-python.tar.gz", folder)
        processes: list[multiprocessing.Process] = [
            SERVER.Process(target=prepare, args=(folder, forms.checksums)) for _ in range(8)
        ]
        for process in processes:
            process.start()
        time.sleep(chance.uniform(0, 0.3))
        processes[0].kill()
        for process in processes:
            process.join(60)
        exit_codes = [process.exitcode for process in processes[1:]]
        whole = read_prepared(folder / PREPARED_FILE, forms.checksums)
        good = exit_codes == [0] * 7 and whole is not None and not list(folder.glob(".*.tmp"))
        survived("eight processes preparing, one killed: one good file", good)
        assert good, (exit_codes, sorted(folder.iterdir()))
