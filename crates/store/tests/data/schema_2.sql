-- A database of schema 2, as ferricd of that time left it (sqlite3 .dump), with a reading of one of its nodes.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
INSERT INTO _sqlx_migrations VALUES(1,'nodes, ports, flows, history','2026-11-22 20:56:46',1,X'6b975b855168f8a9acf553ddb8b5602903f38db1bf3bc3e5d8bb7bbea75759886ed68be87325ec74cd6c89cadb08e0aa',2921326);
INSERT INTO _sqlx_migrations VALUES(2,'records','2026-11-23 05:49:48',1,X'e8ff185c49f89b2bb437db21d3d183a89375f13a25b4ee9f22f081da47a01b81411c56bbb35b88734de5b956ec9d12fd',8690609);
CREATE TABLE ownership (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    epoch    INTEGER NOT NULL,
    host     TEXT    NOT NULL,
    taken_at TEXT    NOT NULL
) STRICT;
INSERT INTO ownership VALUES(1,3,'here','2026-11-22T21:07:42.140184913Z');
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
, shard TEXT AS (json_extract(document, '$.attributes.shard')), parent_node TEXT AS (json_extract(document, '$.attributes.parent_node')), chassis_uuid TEXT AS (json_extract(document, '$.attributes.chassis_uuid')), instance_name TEXT AS (json_extract(document, '$.attributes.instance_name'))) STRICT;
INSERT INTO nodes VALUES(2,'11111111-1111-4111-8111-111111111111',13,1795381125045843,1795381156811522,1795381156811522,NULL,NULL,'{"uuid":"11111111-1111-4111-8111-111111111111","version":13,"name":"old-1","created_at":"2026-11-22T20:58:45.045843265Z","updated_at":"2026-11-22T20:59:16.811522097Z","driver":"fake-hardware","interfaces":{"bios":"no-bios","boot":"fake","console":"no-console","deploy":"fake","firmware":"no-firmware","inspect":"fake","management":"fake","network":"noop","power":"fake","raid":"no-raid","rescue":"no-rescue","storage":"noop","vendor":"no-vendor"},"driver_info":{"fake_address":"192.0.2.1","fake_password":"secret"},"driver_internal_info":{},"instance_info":{},"properties":{"cpu_arch":"x86_64"},"extra":{"slot":3},"provision_state":"manageable","target_provision_state":null,"provision_updated_at":"2026-11-22T20:59:16.811522097Z","power_state":"power on","target_power_state":null,"maintenance":false,"maintenance_reason":null,"fault":null,"last_error":null,"reservation":null,"instance_uuid":null,"clean_step":{},"deploy_step":{},"service_step":{},"inspection_started_at":null,"inspection_finished_at":null,"automated_clean":null,"resource_class":null,"description":null,"owner":null,"lessee":null,"conductor_group":"","protected":false,"protected_reason":null,"retired":false,"retired_reason":null,"network_data":{},"traits":[],"attributes":{"shard":"west"}}');
INSERT INTO nodes VALUES(3,'33333333-3333-4333-8333-333333333333',1,1795381125058368,NULL,NULL,NULL,NULL,'{"uuid":"33333333-3333-4333-8333-333333333333","version":1,"name":"old-2","created_at":"2026-11-22T20:58:45.058368352Z","updated_at":null,"driver":"fake-hardware","interfaces":{"bios":"no-bios","boot":"fake","console":"no-console","deploy":"fake","firmware":"no-firmware","inspect":"fake","management":"fake","network":"noop","power":"fake","raid":"no-raid","rescue":"no-rescue","storage":"noop","vendor":"no-vendor"},"driver_info":{},"driver_internal_info":{},"instance_info":{},"properties":{},"extra":{},"provision_state":"available","target_provision_state":null,"provision_updated_at":null,"power_state":null,"target_power_state":null,"maintenance":false,"maintenance_reason":null,"fault":null,"last_error":null,"reservation":null,"instance_uuid":null,"clean_step":{},"deploy_step":{},"service_step":{},"inspection_started_at":null,"inspection_finished_at":null,"automated_clean":null,"resource_class":null,"description":null,"owner":null,"lessee":null,"conductor_group":"","protected":false,"protected_reason":null,"retired":false,"retired_reason":null,"network_data":{},"traits":[],"attributes":{}}');
CREATE TABLE ports (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid       TEXT    NOT NULL UNIQUE,
    node_uuid  TEXT    NOT NULL REFERENCES nodes (uuid) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    updated_at INTEGER,
    document   TEXT    NOT NULL,
    address    TEXT    AS (json_extract(document, '$.address')) STORED
, portgroup_uuid TEXT AS (json_extract(document, '$.attributes.portgroup_uuid')), name TEXT AS (json_extract(document, '$.name'))) STRICT;
INSERT INTO ports VALUES(1,'44444444-4444-4444-8444-444444444444','11111111-1111-4111-8111-111111111111',1795381125240653,1795381125290652,'{"uuid":"44444444-4444-4444-8444-444444444444","node_uuid":"11111111-1111-4111-8111-111111111111","address":"52:54:00:12:34:56","name":null,"created_at":"2026-11-22T20:58:45.240653325Z","updated_at":"2026-11-22T20:58:45.290652845Z","extra":{},"local_link_connection":{},"pxe_enabled":false,"physical_network":null,"internal_info":{},"attributes":{"available_for_dynamic_portgroup":true,"is_smartnic":false}}');
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
INSERT INTO history VALUES(1,'17b9ed0d-5aca-4d0e-a47c-63a023f1e61e','11111111-1111-4111-8111-111111111111','{"uuid":"17b9ed0d-5aca-4d0e-a47c-63a023f1e61e","created_at":"2026-11-22T20:58:45.189805518Z","severity":"INFO","event_type":"maintenance","event":"maintenance set: new fan","conductor":"here"}');
INSERT INTO history VALUES(2,'015ebdaf-3d0c-4c5c-83cd-cf6b429950a6','11111111-1111-4111-8111-111111111111','{"uuid":"015ebdaf-3d0c-4c5c-83cd-cf6b429950a6","created_at":"2026-11-22T20:58:45.204223138Z","severity":"INFO","event_type":"maintenance","event":"maintenance cleared","conductor":"here"}');
INSERT INTO history VALUES(3,'e1612dab-2334-4482-85cc-21a3861e5b6f','11111111-1111-4111-8111-111111111111','{"uuid":"e1612dab-2334-4482-85cc-21a3861e5b6f","created_at":"2026-11-22T20:59:16.774579071Z","severity":"INFO","event_type":"transition","event":"enroll -> verifying (manage)","conductor":"here"}');
INSERT INTO history VALUES(4,'fe5b2a9e-01fd-4064-99e8-862ec080d20c','11111111-1111-4111-8111-111111111111','{"uuid":"fe5b2a9e-01fd-4064-99e8-862ec080d20c","created_at":"2026-11-22T20:59:16.811522097Z","severity":"INFO","event_type":"transition","event":"verifying -> manageable (done)","conductor":"here"}');
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
INSERT INTO records VALUES(1,'reading','11111111-1111-4111-8111-111111111111',1,'11111111-1111-4111-8111-111111111111',1795381125045843,NULL,NULL,'{"bios":[]}');
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('nodes',6);
INSERT INTO sqlite_sequence VALUES('history',19);
INSERT INTO sqlite_sequence VALUES('ports',2);
INSERT INTO sqlite_sequence VALUES('records',1);
CREATE UNIQUE INDEX nodes_name ON nodes (name);
CREATE UNIQUE INDEX nodes_instance_uuid ON nodes (instance_uuid);
CREATE INDEX nodes_provision_state ON nodes (provision_state);
CREATE UNIQUE INDEX ports_address ON ports (address);
CREATE INDEX ports_node_uuid ON ports (node_uuid);
CREATE INDEX history_node ON history (node_uuid, id);
CREATE UNIQUE INDEX records_uuid ON records (kind, uuid);
CREATE UNIQUE INDEX records_name ON records (kind, name);
CREATE UNIQUE INDEX records_address ON records (kind, address);
CREATE UNIQUE INDEX records_identity ON records (kind, identity);
CREATE INDEX records_node_uuid ON records (node_uuid);
CREATE INDEX nodes_shard ON nodes (shard);
CREATE INDEX nodes_parent_node ON nodes (parent_node);
CREATE INDEX nodes_chassis_uuid ON nodes (chassis_uuid);
CREATE INDEX ports_portgroup_uuid ON ports (portgroup_uuid);
CREATE INDEX ports_name ON ports (name);
COMMIT;
