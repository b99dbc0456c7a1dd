-- A row keeps the whole value as JSON in `document`. What is filtered, sorted or unique is a column computed from it, so
-- that a column and its document can never disagree; times are columns of their own (microseconds since 1970), because
-- their text does not sort by time.

CREATE TABLE ownership (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    epoch    INTEGER NOT NULL,
    host     TEXT    NOT NULL,
    taken_at TEXT    NOT NULL
) STRICT;

INSERT INTO ownership (id, epoch, host, taken_at) VALUES (1, 0, '', '');

CREATE TABLE nodes (
    id                     INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid                   TEXT    NOT NULL UNIQUE,
    version                INTEGER NOT NULL,
    created_at             INTEGER NOT NULL,
    updated_at             INTEGER,
    provision_updated_at   INTEGER,
    inspection_started_at  INTEGER,
    inspection_finished_at INTEGER,
    document               TEXT    NOT NULL,
    name                   TEXT    AS (json_extract(document, '$.name')) STORED,
    instance_uuid          TEXT    AS (json_extract(document, '$.instance_uuid')) STORED,
    driver                 TEXT    AS (json_extract(document, '$.driver')) STORED,
    provision_state        TEXT    AS (json_extract(document, '$.provision_state')) STORED,
    maintenance            INTEGER AS (json_extract(document, '$.maintenance')) STORED,
    fault                  TEXT    AS (json_extract(document, '$.fault')) STORED,
    resource_class         TEXT    AS (json_extract(document, '$.resource_class')) STORED,
    conductor_group        TEXT    AS (json_extract(document, '$.conductor_group')) STORED,
    owner                  TEXT    AS (json_extract(document, '$.owner')) STORED,
    lessee                 TEXT    AS (json_extract(document, '$.lessee')) STORED,
    retired                INTEGER AS (json_extract(document, '$.retired')) STORED,
    description            TEXT    AS (json_extract(document, '$.description')) STORED
) STRICT;

CREATE UNIQUE INDEX nodes_name ON nodes (name);
CREATE UNIQUE INDEX nodes_instance_uuid ON nodes (instance_uuid);
CREATE INDEX nodes_provision_state ON nodes (provision_state);

CREATE TABLE ports (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       TEXT    NOT NULL UNIQUE,
    node_uuid  TEXT    NOT NULL REFERENCES nodes (uuid) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER,
    document   TEXT    NOT NULL,
    address    TEXT    AS (json_extract(document, '$.address')) STORED
) STRICT;

CREATE UNIQUE INDEX ports_address ON ports (address);
CREATE INDEX ports_node_uuid ON ports (node_uuid);

CREATE TABLE flows (
    node_uuid TEXT PRIMARY KEY REFERENCES nodes (uuid) ON DELETE CASCADE,
    document  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE inventories (
    node_uuid TEXT PRIMARY KEY REFERENCES nodes (uuid) ON DELETE CASCADE,
    document  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE history (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid      TEXT NOT NULL UNIQUE,
    node_uuid TEXT NOT NULL REFERENCES nodes (uuid) ON DELETE CASCADE,
    document  TEXT NOT NULL
) STRICT;

CREATE INDEX history_node ON history (node_uuid, id);
