-- What a program of version 1 left: three objects, one of them written twice, and a chain of four entries. A dump, without the tables.
INSERT INTO onward_chains OVERRIDING SYSTEM VALUE VALUES
	(1, 'orders', 'onward.local/a60ad772-6197-4728-a2a5-69d560a7fe9e/orders', 1795280632889437);
INSERT INTO onward_changes VALUES
	(256, 1795280631573445, 'put', 'default', 'thing', 'x1', 1, '{"request":"@local/01a1ff10-76d6-7687-9d4b-ed385bb1aa86"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 313, 8),
	(512, 1795280632055183, 'put', 'default', 'thing', 'x2', 1, '{"request":"@local/01a1ff10-78ba-7dfd-b9d8-2589e25aa74f"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 313, 8),
	(768, 1795280632416978, 'put', 'default', 'thing', 'x3', 1, '{"request":"@local/01a1ff10-7a14-7f0a-9e01-1578da038ace"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 313, 8),
	(1024, 1795280632646350, 'put', 'default', 'thing', 'x1', 2, '{"request":"@local/01a1ff10-7b22-7d3e-ac2f-385129db91d0"}', 'b75aa1a5-4e91-4dad-8201-496f6d67cf6b', 1, 1, 1, 'application/json', '\x7b226e223a317d0a', 1795280631573445, 1795280631573445, '{"team":"blue"}', NULL, 336, 8),
	(1280, 1795280632889437, 'commit', NULL, NULL, NULL, NULL, '{"entries":[{"chain":"orders","seq":2,"hash":"ddef07671fcbf0a18d6b22acf9a5377a0a342740c7a3ca42962cd7f42e3b0f7f","at":1795280632889437,"event_id":"e1"}],"request":"audit/orders/e1"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 436, 0),
	(1536, 1795280633161404, 'commit', NULL, NULL, NULL, NULL, '{"entries":[{"chain":"orders","seq":3,"hash":"75bb6ea432393d5e34f4cdaa852e8e2eaad73f9b67423e307e7b002451330a5c","at":1795280633161404,"event_id":"e2"}],"request":"audit/orders/e2"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 436, 0),
	(1792, 1795280633366465, 'commit', NULL, NULL, NULL, NULL, '{"entries":[{"chain":"orders","seq":4,"hash":"1a23c41cc0b13f2724c664e6887a73fcb2899ffe75d78d73a83ba165c4e61936","at":1795280633366465,"event_id":"e3"}],"request":"audit/orders/e3"}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 436, 0),
	(2048, 1795280633706842, 'put', 'default', 'onward.verdict', 'orders/full', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 256, 127);
INSERT INTO onward_entries VALUES
	(1, 1, '\xb18591d36818cbd9b6c2a52d63b8ce0857698c9dcccfecf55fe1449beda7a743', '\xf77e6ca22bf6ad19311aa6b7c74d700f07629a6ecfa74ee8b9b3f85801679195', NULL, '', 1795280632889437, 'created', 'chain.created', NULL, NULL, '\x7b22616c67223a22736861323536222c226e6f6e6365223a226531336532346331333962333638656637366536383337356466303261396362222c226f726967696e223a226f6e776172642e6c6f63616c2f61363061643737322d363139372d343732382d613261352d3639643536306137666539652f6f7264657273222c2276223a317d', NULL, 1),
	(1, 2, '\xf77e6ca22bf6ad19311aa6b7c74d700f07629a6ecfa74ee8b9b3f85801679195', '\xddef07671fcbf0a18d6b22acf9a5377a0a342740c7a3ca42962cd7f42e3b0f7f', NULL, '', 1795280632889437, 'e1', 'order.placed', 'user:7', 'order:1', '\x', NULL, 6),
	(1, 3, '\xddef07671fcbf0a18d6b22acf9a5377a0a342740c7a3ca42962cd7f42e3b0f7f', '\x75bb6ea432393d5e34f4cdaa852e8e2eaad73f9b67423e307e7b002451330a5c', NULL, '', 1795280633161404, 'e2', 'order.placed', 'user:7', 'order:2', '\x', NULL, 6),
	(1, 4, '\x75bb6ea432393d5e34f4cdaa852e8e2eaad73f9b67423e307e7b002451330a5c', '\x1a23c41cc0b13f2724c664e6887a73fcb2899ffe75d78d73a83ba165c4e61936', NULL, '', 1795280633366465, 'e3', 'order.placed', 'user:7', 'order:3', '\x', NULL, 6);
INSERT INTO onward_heads VALUES
	(1, 4, '\x1a23c41cc0b13f2724c664e6887a73fcb2899ffe75d78d73a83ba165c4e61936', '\x99c756753a3d6abf8eb1c5f94932d5b60f47cf260f786ae97b396367621d601b', 1795280633366465);
INSERT INTO onward_labels VALUES
	('default', 'thing', 'team', 'blue', 'x1'),
	('default', 'thing', 'team', 'blue', 'x2'),
	('default', 'thing', 'team', 'blue', 'x3');
INSERT INTO onward_meta VALUES
	(1, 1, '8f0cd11a582f2b34', 8, 0, 0, 0, 2839, 0, 1795280633706842, 'onward.local/a60ad772-6197-4728-a2a5-69d560a7fe9e', 1795280631257228, '7710671521846237899/00000001/5/16384');
INSERT INTO onward_objects VALUES
	('default', 'thing', 'x2', 'd335fba5-8548-428f-90a5-25c49c7e00e2', 1, 2, 2, 'application/json', '\x7b226e223a327d0a', 1795280632055183, 1795280632055183, '{"team":"blue"}', NULL),
	('default', 'thing', 'x3', '6f239c54-29f3-4fe7-9d49-c6e5b0181e2f', 1, 3, 3, 'application/json', '\x7b226e223a337d0a', 1795280632416978, 1795280632416978, '{"team":"blue"}', NULL),
	('default', 'thing', 'x1', 'b75aa1a5-4e91-4dad-8201-496f6d67cf6b', 2, 4, 1, 'application/json', '\x7b226e223a377d0a', 1795280631573445, 1795280632646350, '{"team":"blue"}', NULL),
	('default', 'onward.verdict', 'orders/full', 'ecd2acff-e61f-4591-bc20-1cd896607db9', 1, 8, 8, 'application/json', '\x7b2276657264696374223a226f6b222c22657874656e74223a2266756c6c222c226465707468223a227075626c6963222c226174746573746564223a66616c73652c22746f5f736571223a342c226174223a22323032362d31312d32315431373a30333a35332e3635373132355a222c2266696e64696e67223a6e756c6c7d', 1795280633706842, 1795280633706842, NULL, NULL);
INSERT INTO onward_requests VALUES
	('@local/01a1ff10-76d6-7687-9d4b-ed385bb1aa86', '\xc63dbf7a79ec36d1c920a54e0e85d9934302d02142ecadfde0537354f8a7e9b1', '{"revision":1,"writes":[{"version":1,"revision":1,"created":true,"changed":true}],"audit":[],"changed":true}', 1795281531573445),
	('@local/01a1ff10-78ba-7dfd-b9d8-2589e25aa74f', '\x93109b4a61f44f507ce78bd185ab93ed6bb6bd03684f2dc6efdb8896c25efc8d', '{"revision":2,"writes":[{"version":1,"revision":2,"created":true,"changed":true}],"audit":[],"changed":true}', 1795281532055183),
	('@local/01a1ff10-7a14-7f0a-9e01-1578da038ace', '\x1485a5c522ed4b2437f2d29b0607679659e66efd95b0fc7d274af07b526cdbf8', '{"revision":3,"writes":[{"version":1,"revision":3,"created":true,"changed":true}],"audit":[],"changed":true}', 1795281532416978),
	('@local/01a1ff10-7b22-7d3e-ac2f-385129db91d0', '\x11f7b0b7e61cbea035e9b48b7c78c4b9ccf9fe20603bedaed7e11c2606dd9225', '{"revision":4,"writes":[{"version":2,"revision":4,"created":false,"changed":true}],"audit":[],"changed":true}', 1795281532646350),
	('audit/orders/e1', '\x38de6935e47644cc7c4038675974857c072df86af54afe13f7d88025429dc694', '{"revision":5,"writes":[],"audit":[{"chain":"orders","seq":2,"hash":"ddef07671fcbf0a18d6b22acf9a5377a0a342740c7a3ca42962cd7f42e3b0f7f","at":1795280632889437,"event_id":"e1"}],"changed":true}', 1795885432889437),
	('audit/orders/e2', '\x60cadcf54e483e22d0c658432188b332300f6a10c99f76d10adbc155d873417a', '{"revision":6,"writes":[],"audit":[{"chain":"orders","seq":3,"hash":"75bb6ea432393d5e34f4cdaa852e8e2eaad73f9b67423e307e7b002451330a5c","at":1795280633161404,"event_id":"e2"}],"changed":true}', 1795885433161404),
	('audit/orders/e3', '\xc4677ad54672d8709d21d21a0544f02a26b8737ec872c27c9a3392c42f69a747', '{"revision":7,"writes":[],"audit":[{"chain":"orders","seq":4,"hash":"1a23c41cc0b13f2724c664e6887a73fcb2899ffe75d78d73a83ba165c4e61936","at":1795280633366465,"event_id":"e3"}],"changed":true}', 1795885433366465);
INSERT INTO onward_writers VALUES
	('ca8486e3-6ab1-44b0-8c93-aaf4e3698aa2', 1, 1795280631573697),
	('6c77ca90-4296-4d4f-ad56-03853adcf199', 1, 1795280632055411),
	('f3d6ca05-c8a7-436d-b2df-9d5e4e5896a4', 1, 1795280632417247),
	('1755a413-4c51-40a6-842f-5edb3327f311', 1, 1795280632646609),
	('7c74e017-cf16-48ac-bbd2-cc6079b34659', 1, 1795280632889735),
	('fabd292a-c321-41fd-be30-cf0137dedffe', 1, 1795280633161663),
	('b8b75dca-fbfd-4303-9197-cce67acad92f', 1, 1795280633366722),
	('056cc5d9-7e9b-43ec-a853-9a0c806c1d2a', 1, 1795280633707032);
SELECT pg_catalog.setval('onward_chains_id_seq', 1, true);
