<?php
$queues = new Memcached();
$queues->addServer('localhost', 22122);

// What is put in comes out once, as the value it was.
$queues->set('orders', ['id' => 7, 'who' => 'Zoë', 'tags' => [1.5, null, true]]);
$queues->set('orders', "\0\xFF\r\n");
echo json_encode($queues->get('orders'), JSON_UNESCAPED_UNICODE), "\n"; // => {"id":7,"who":"Zoë","tags":[1.5,null,true]}
echo bin2hex($queues->get('orders')), "\n";          // => 00ff0d0a
var_dump($queues->get('orders'));                    // => bool(false)
echo $queues->getResultMessage(), "\n";              // => NOT FOUND
var_dump($queues->get('never-heard-of'));            // => bool(false)

// One message of each queue that has one.
$queues->set('north', 1);
$queues->set('south', 2);
echo json_encode($queues->getMulti(['north', 'east', 'south'])), "\n"; // => {"north":1,"south":2}

// Delivered within a minute or not at all.
$queues->set('calls', 'now', 60);
$queues->set('calls', 'too late', -1);
var_dump($queues->get('calls'));                     // => string(3) "now"
var_dump($queues->get('calls'));                     // => bool(false)

// A loan: the message is the reader's until it is closed or given back.
$queues->set('jobs', 'paint');
var_dump($queues->get('jobs/open'));                 // => string(5) "paint"
var_dump($queues->get('jobs/abort'));                // => bool(false)
var_dump($queues->get('jobs/open'));                 // => string(5) "paint"
var_dump($queues->get('jobs/close'));                // => bool(false)
var_dump($queues->get('jobs/t=100'));                // => bool(false)
