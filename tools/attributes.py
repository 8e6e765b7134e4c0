"""Measure what image encoder and model make of each attribute, and store the rows of one edition (`make attributes`).

Synthetic sets and patch tokens are kept in data/attributes-EDITION, so that an interrupted call goes on. Run it in the
root of the repository.
"""

import argparse
from pathlib import Path

import sevlm
from sevlm.studies.attributes import attribute_table, store_attributes

STORED = Path("nbs") / "data" / "attributes.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edition", help="name of painter and model in the stored rows, such as second")
    parser.add_argument("--checkpoint", help="a run or checkpoint (default: the shipped small model)")
    args = parser.parse_args()
    rows = attribute_table(sevlm.load(args.checkpoint), Path("data") / f"attributes-{args.edition}")
    print(f"{len(rows)} rows of the {args.edition} edition in {store_attributes(STORED, rows, args.edition)}")


if __name__ == "__main__":
    main()
