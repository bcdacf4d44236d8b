"""Reading a row group of a shard: what is not as the contract says is found here, and named."""

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest import SHARD_SCHEMA
from pipeline.plan import Unit
from pipeline.storage import Folder

MEND = "Copy the dataset anew, or give the command that prepared it once more, with --repair."


def read_row_group(folder: Folder, unit: Unit, columns: list[str]) -> pa.Table:
    """Read columns of a row group and verify the checksums of its pages.

    Raises:
        OSError: If the shard cannot be read.
        ValueError: If it is missing, damaged, or not what the contract says.
    """
    try:
        with folder.open(unit.file) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            schema = file.schema_arrow
            for name in columns:
                wanted = SHARD_SCHEMA.field(name)
                if name not in schema.names or schema.field(name).type != wanted.type:
                    found = ", ".join(f"{field.name} {field.type}" for field in schema)
                    raise ValueError(f"it has no column {name!r} of {wanted.type} but {found}")
            table = file.read_row_group(unit.row_group, columns=columns)
            table.validate(full=True)  # or what is not valid text shows up much later, elsewhere
            if len(table) != unit.rows:
                raise ValueError(f"row group {unit.row_group} has {len(table)} rows")
            return table
    except FileNotFoundError as error:
        raise ValueError(f"{folder}/{unit.file} is missing. {MEND}") from error
    except (ValueError, pa.ArrowException, IndexError, OSError) as error:
        # Arrow says OSError for a wrong checksum, which is not one that storage gave.
        if isinstance(error, OSError) and not _is_arrows(error):
            raise
        cause = " ".join(str(error).split())
        raise ValueError(
            f"{folder}/{unit.file} is damaged, or not of this dataset: {cause}. {MEND}"
        ) from error


def _is_arrows(error: OSError) -> bool:
    text = str(error).lower()
    return error.errno is None and any(
        word in text for word in ("crc", "thrift", "parquet", "page")
    )
