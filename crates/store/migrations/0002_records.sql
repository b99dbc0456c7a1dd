-- Everything besides nodes and ports: one table, a row a record. `document` holds its fields by the names of the API.

CREATE TABLE records (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT    NOT NULL,
    uuid       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    node_uuid  TEXT    REFERENCES nodes (uuid) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER,
    identity   TEXT,
    document   TEXT    NOT NULL,
    name       TEXT    AS (json_extract(document, '$.name')) STORED,
    address    TEXT    AS (json_extract(document, '$.address')) STORED
) STRICT;

CREATE UNIQUE INDEX records_uuid ON records (kind, uuid);
CREATE UNIQUE INDEX records_name ON records (kind, name);
CREATE UNIQUE INDEX records_address ON records (kind, address);
CREATE UNIQUE INDEX records_identity ON records (kind, identity);
CREATE INDEX records_node_uuid ON records (node_uuid);

-- What nodes and ports are filtered by since then. A column that is added later cannot be stored; it is computed where it
-- is read, and its index holds the values.

ALTER TABLE nodes ADD COLUMN shard TEXT AS (json_extract(document, '$.attributes.shard'));
ALTER TABLE nodes ADD COLUMN parent_node TEXT AS (json_extract(document, '$.attributes.parent_node'));
ALTER TABLE nodes ADD COLUMN chassis_uuid TEXT AS (json_extract(document, '$.attributes.chassis_uuid'));
ALTER TABLE nodes ADD COLUMN instance_name TEXT AS (json_extract(document, '$.attributes.instance_name'));
ALTER TABLE ports ADD COLUMN portgroup_uuid TEXT AS (json_extract(document, '$.attributes.portgroup_uuid'));
ALTER TABLE ports ADD COLUMN name TEXT AS (json_extract(document, '$.name'));

CREATE INDEX nodes_shard ON nodes (shard);
CREATE INDEX nodes_parent_node ON nodes (parent_node);
CREATE INDEX nodes_chassis_uuid ON nodes (chassis_uuid);
CREATE INDEX ports_portgroup_uuid ON ports (portgroup_uuid);
CREATE INDEX ports_name ON ports (name);
